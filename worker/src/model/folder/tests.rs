use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::model::testing::{POSITIONS, TinyBert};

fn read(tiny: &TinyBert) -> Result<Folder, ReadError> {
    Folder::read(tiny.write().path())
}

fn problem(change: impl FnOnce(&mut TinyBert)) -> String {
    let mut tiny = TinyBert::new();
    change(&mut tiny);
    read(&tiny).unwrap_err().to_string()
}

#[test]
fn reads_what_sentence_transformers_saves() {
    let folder = read(&TinyBert::new()).unwrap();
    assert_eq!((folder.pooling, folder.normalizes, folder.tokens_max), (Pooling::Mean, true, 48));
    assert!(folder.weights.ends_with("model.safetensors"));
    assert!(folder.tokenizer.unwrap().ends_with("tokenizer.json"));
}

#[test]
fn a_plain_encoder_is_pooled_by_mean_and_not_normalised() {
    let mut tiny = TinyBert::new();
    (tiny.modules, tiny.sentence) = (Value::Null, Value::Null);
    let folder = read(&tiny).unwrap();
    assert_eq!((folder.pooling, folder.normalizes, folder.tokens_max), (Pooling::Mean, false, POSITIONS));
}

#[test]
fn reads_every_pooling_in_both_spellings() {
    let cases = [
        (json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false }), Pooling::Cls),
        (json!({ "pooling_mode_max_tokens": true }), Pooling::Max),
        (json!({ "pooling_mode": "cls" }), Pooling::Cls),
        (json!({ "pooling_mode": "mean" }), Pooling::Mean),
    ];
    for (pooling, expected) in cases {
        let mut tiny = TinyBert::new();
        tiny.pooling = pooling;
        assert_eq!(read(&tiny).unwrap().pooling, expected);
    }
}

#[test]
fn refuses_a_pooling_it_does_not_know() {
    let both = json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true });
    for (pooling, says) in [
        (both, "cls_token with mean_tokens"),
        (json!({ "pooling_mode_lasttoken": true }), "`pooling_mode` is lasttoken"),
        (json!({}), "`pooling_mode` is not set"),
    ] {
        let error = problem(|tiny| tiny.pooling = pooling);
        assert!(error.contains("1_Pooling/config.json") && error.contains(says), "{error}");
    }
}

#[test]
fn refuses_what_it_cannot_run_by_name() {
    let cases: [(&str, Value, &str); 8] = [
        ("model_type", json!("t5"), "(model_type `t5`) is not supported, only `bert`"),
        ("architectures", json!(["BertForSequenceClassification"]), "`BertForSequenceClassification` is not supported"),
        ("hidden_act", json!("mish"), "`hidden_act` is mish, but must be one of gelu"),
        ("hidden_size", json!(25), "`hidden_size` is 25, but must be a multiple of num_attention_heads, 3"),
        ("num_hidden_layers", json!(0), "`num_hidden_layers` is 0, but must be from 1"),
        ("position_embedding_type", json!("relative_key"), "`position_embedding_type` is relative_key"),
        ("layer_norm_eps", json!(-1), "`layer_norm_eps` is -1"),
        ("vocab_size", json!("many"), "config.json: invalid type: string \"many\""),
    ];
    for (field, value, says) in cases {
        let error = problem(|tiny| tiny.config[field] = value);
        assert!(error.contains("config.json") && error.contains(says), "{error}");
    }
    let error = problem(|tiny| _ = tiny.config.as_object_mut().unwrap().remove("hidden_size"));
    assert!(error.contains("missing field `hidden_size`"), "{error}");
}

#[test]
fn refuses_modules_it_does_not_know_or_outside_the_folder() {
    let error = problem(|tiny| tiny.modules[2]["type"] = "sentence_transformers.models.Dense".into());
    assert!(error.contains("modules.json") && error.contains("Dense"), "{error}");
    for path in ["../elsewhere", "/etc"] {
        let error = problem(|tiny| tiny.modules[1]["path"] = path.into());
        assert!(error.contains("leads out of the model's folder"), "{error}");
    }
}

#[test]
fn says_which_file_is_not_there() {
    let error = problem(|tiny| tiny.config = Value::Null);
    assert!(error.contains("config.json"), "{error}");
    let folder = TinyBert::new().write();
    let weights = folder.path().join("model.safetensors");
    fs::remove_file(&weights).unwrap();
    assert!(Folder::read(folder.path()).unwrap_err().to_string().contains("model.safetensors"));
    fs::write(folder.path().join("pytorch_model.bin"), "").unwrap();
    assert!(matches!(Folder::read(folder.path()), Err(ReadError::OnlyPickle { .. })));
    fs::write(folder.path().join("model.safetensors.index.json"), "").unwrap();
    assert!(matches!(Folder::read(folder.path()), Err(ReadError::Sharded { .. })));
}

#[test]
fn says_that_weights_are_no_safetensors() {
    use crate::model::weights::WeightsFile;
    let folder = TinyBert::new().write();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, "not at all").unwrap();
    let error = WeightsFile::open(&path).unwrap().tensors("x", &[""]).unwrap_err();
    assert!(matches!(error, ReadError::Safetensors { .. }), "{error}");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}
