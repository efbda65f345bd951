use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Check, CheckError, check};
use crate::models::{PullSettings, Source, Store};

/// A complete encoder with one layer, two dimensions and three words.
fn write_model(folder: &Path) {
    let config = json!({
        "model_type": "bert", "hidden_act": "gelu", "hidden_size": 2, "num_hidden_layers": 1, "intermediate_size": 4,
        "num_attention_heads": 1, "vocab_size": 3, "max_position_embeddings": 8, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2}, "unk_token": "[UNK]"},
    });
    let pooling =
        json!({"word_embedding_dimension": 2, "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false});
    write(folder, "config.json", &config);
    write(folder, "tokenizer.json", &tokenizer);
    write(folder, "sentence_bert_config.json", &json!({"max_seq_length": 8}));
    write(folder, "1_Pooling/config.json", &pooling);
    write_weights(folder, &tensors());
}

fn write(folder: &Path, file: &str, json: &Value) {
    let path = folder.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, json.to_string()).unwrap();
}

/// Changes one key of a JSON file.
fn set(folder: &Path, file: &str, key: &str, value: Value) {
    let mut json: Value = serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap();
    json[key] = value;
    write(folder, file, &json);
}

fn tensors() -> BTreeMap<String, Vec<usize>> {
    let fixed: [(&str, &[usize]); 5] = [
        ("word_embeddings.weight", &[3, 2]),
        ("position_embeddings.weight", &[8, 2]),
        ("token_type_embeddings.weight", &[2, 2]),
        ("LayerNorm.weight", &[2]),
        ("LayerNorm.bias", &[2]),
    ];
    let mut tensors: BTreeMap<_, _> =
        fixed.into_iter().map(|(name, shape)| (format!("embeddings.{name}"), shape.to_vec())).collect();
    for name in ["self.query", "self.key", "self.value", "output.dense"] {
        tensors.insert(format!("encoder.layer.0.attention.{name}.weight"), vec![2, 2]);
        tensors.insert(format!("encoder.layer.0.attention.{name}.bias"), vec![2]);
    }
    for (name, shape) in [("intermediate.dense", [4, 2]), ("output.dense", [2, 4])] {
        tensors.insert(format!("encoder.layer.0.{name}.weight"), shape.to_vec());
        tensors.insert(format!("encoder.layer.0.{name}.bias"), vec![shape[0]]);
    }
    for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
        tensors.insert(format!("encoder.layer.0.{name}.weight"), vec![2]);
        tensors.insert(format!("encoder.layer.0.{name}.bias"), vec![2]);
    }
    tensors
}

/// Writes float32 zeros of these shapes.
fn write_weights(folder: &Path, tensors: &BTreeMap<String, Vec<usize>>) {
    let mut header = serde_json::Map::new();
    let mut offset = 0;
    for (name, shape) in tensors {
        let end = offset + 4 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + offset, 0);
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

fn check_folder(folder: &Path) -> Check {
    let store = Store::new(folder.join("home"), PullSettings::default());
    check(&Source::Folder(folder.to_owned()), &store).unwrap()
}

/// The one problem of a model in which one thing was changed.
fn problem_after(change: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    change(folder.path());
    let check = check_folder(folder.path());
    assert_eq!(check.problems.len(), 1, "{check}");
    check.problems[0].to_string()
}

#[test]
fn a_sound_folder_has_no_problems() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let check = check_folder(folder.path());
    assert_eq!(check.problems, []);
    let facts =
        ["bert, 1 layers, 2 dimensions, 1 heads", "mean pooling", "8 tokens at most", "3 words in the vocabulary"];
    for fact in facts {
        assert!(check.facts.iter().any(|found| found == fact), "{fact}: {check}");
    }
    assert!(check.to_string().ends_with("  no problems\n"));
}

#[test]
fn an_encoder_under_a_head_is_found_by_its_prefix() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let tensors = tensors().into_iter().map(|(name, shape)| (format!("bert.{name}"), shape)).collect();
    write_weights(folder.path(), &tensors);
    assert_eq!(check_folder(folder.path()).problems, []);
}

#[test]
fn names_file_key_expected_and_found() {
    let config = |key: &'static str, value: Value| move |folder: &Path| set(folder, "config.json", key, value);
    assert_eq!(
        problem_after(config("hidden_act", json!("swish"))),
        "config.json: hidden_act: expected gelu or gelu_new or gelu_pytorch_tanh or relu, found \"swish\""
    );
    assert_eq!(
        problem_after(config("model_type", json!("llama"))),
        "config.json: model_type: expected bert, found \"llama\"; only encoders of the BERT family are run yet"
    );
    assert_eq!(
        problem_after(config("num_attention_heads", json!(3))),
        "config.json: num_attention_heads: expected a divisor of hidden_size 2, found 3"
    );
    assert_eq!(
        problem_after(config("hidden_size", json!(-1))),
        "config.json: hidden_size: expected a positive whole number, found -1"
    );
    assert_eq!(
        problem_after(|folder| set(folder, "1_Pooling/config.json", "pooling_mode_cls_token", json!(true))),
        "1_Pooling/config.json: pooling_mode_*: expected pooling_mode_mean_tokens or pooling_mode_cls_token alone, \
         found pooling_mode_cls_token, pooling_mode_mean_tokens"
    );
    assert_eq!(
        problem_after(|folder| set(folder, "sentence_bert_config.json", "max_seq_length", json!(9))),
        "sentence_bert_config.json: max_seq_length: expected 1 to max_position_embeddings 8, found 9"
    );
}

#[test]
fn tells_a_tokenizer_of_another_model() {
    let larger = json!({"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "z": 30521}, "unk_token": "[UNK]"});
    assert_eq!(
        problem_after(|folder| set(folder, "tokenizer.json", "model", larger)),
        "tokenizer.json: vocabulary: expected ids below vocab_size 3 of config.json, found id 30521; \
         the tokenizer is of another model"
    );
    let broken = problem_after(|folder| fs::write(folder.join("tokenizer.json"), "{}").unwrap());
    assert!(broken.starts_with("tokenizer.json: expected a tokenizer that loads, found "), "{broken}");
}

#[test]
fn tells_weights_that_are_cut_missing_or_of_another_shape() {
    let cut = problem_after(|folder| {
        let path = folder.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    });
    assert!(cut.starts_with("model.safetensors: header: expected ") && cut.ends_with("fetch it again"), "{cut}");

    let html = problem_after(|folder| fs::write(folder.join("model.safetensors"), "<html>not found</html>").unwrap());
    assert!(html.contains("a header inside the file"), "{html}");

    let shape = problem_after(|folder| {
        let mut tensors = tensors();
        tensors.insert("embeddings.LayerNorm.bias".to_owned(), vec![3]);
        write_weights(folder, &tensors);
    });
    assert_eq!(
        shape,
        "model.safetensors: embeddings.LayerNorm.bias: expected a float tensor of shape [2], found F32 of shape [3]"
    );

    let gone = problem_after(|folder| fs::remove_file(folder.join("model.safetensors")).unwrap());
    assert_eq!(gone, "model.safetensors: expected a file, found none");
}

#[test]
fn does_not_name_every_tensor_when_all_are_wrong() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    set(folder.path(), "config.json", "hidden_size", json!(4));
    set(folder.path(), "1_Pooling/config.json", "word_embedding_dimension", json!(4));
    let check = check_folder(folder.path());
    assert_eq!(check.problems.len(), super::weights::NAMED_MAX + 1, "{check}");
    let last = check.problems.last().unwrap().to_string();
    assert!(last.contains("more that are missing or of another shape"), "{last}");
}

#[test]
fn says_which_other_weights_are_there() {
    let problem = problem_after(|folder| {
        fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    });
    assert!(problem.ends_with("pytorch_model.bin is not read; save the model as one model.safetensors"), "{problem}");
}

#[test]
fn does_not_pull_what_is_to_be_checked() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::new(home.path(), PullSettings::default());
    let check_text = |text: &str| check(&text.parse().unwrap(), &store);
    assert_eq!(check_text("minilm"), Err(CheckError::NotPulled { model: "minilm".into() }));
    assert_eq!(check_text("hf:a/b"), Err(CheckError::NotPulled { model: "hf:a/b@main".into() }));
    assert_eq!(check_text("echo"), Err(CheckError::BuiltIn { model: "echo".into() }));
    assert!(matches!(check_text("/no/such/folder"), Err(CheckError::NoFolder { .. })));
}
