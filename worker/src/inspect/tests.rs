use serde_json::json;

use super::*;
use crate::model::testing::{Tiny, fixtures, names};

fn problems(tiny: &Tiny) -> Vec<String> {
    let folder = tiny.write();
    let found = inspect(folder.path());
    let begins = format!("{}/", folder.path().display());
    assert!(!found.problems.is_empty() && found.problems.iter().all(|line| line.starts_with(&begins)), "{found:?}");
    found.problems.iter().map(|line| line[begins.len()..].to_owned()).collect()
}

#[test]
fn says_of_every_architecture_and_head_what_it_is() {
    for name in names() {
        let found = inspect(&fixtures().join(&name));
        assert_eq!(found.problems, [""; 0], "{name}");
        assert_eq!(found.facts.len(), 4, "{name}: {:?}", found.facts);
        let architecture = found.facts[0].split(',').next().unwrap();
        assert!(name.starts_with(architecture), "{name}: {:?}", found.facts);
    }
}

#[test]
fn facts_are_those_of_the_settings_and_the_weights() {
    let facts = |name: &str| inspect(&fixtures().join(name)).facts;
    assert_eq!(
        facts("bert-embed"),
        [
            "bert, 2 layers, 32 dimensions, 2 heads",
            "embed: mean pooling, normalised",
            "96 tokens at most, ids below 120",
            "22552 parameters in 37 tensors of F32, all finite",
        ]
    );
    assert_eq!(facts("roberta-classify")[1], "classify: 3 labels (negative, neutral, positive), softmax over all");
    assert_eq!(facts("xlm-roberta-fill")[1], "fill-mask: the mask is <mask>, id 159");
    assert_eq!(facts("distilbert-rerank")[1], "rerank: one score for a pair of texts, sigmoid of each");
    assert_eq!(facts("bert-rerank")[2], "72 tokens at most, ids below 110, 2 token types");
    assert!(facts("roberta-embed")[3].ends_with(" tensors of F16, all finite"), "{:?}", facts("roberta-embed"));
    let labels: serde_json::Map<_, _> = (0..9).map(|id| (id.to_string(), json!(format!("l{id}")))).collect();
    let many = Tiny::read("bert-classify").set("id2label", labels).write();
    assert_eq!(
        inspect(many.path()).facts[1],
        "classify: 9 labels (l0, l1, l2, l3, l4, l5, l6, l7, …), softmax over all"
    );
}

#[test]
fn settings_that_are_wrong_are_told_with_what_was_found_and_expected() {
    let tiny = Tiny::read("bert-embed").set("hidden_size", 25);
    assert_eq!(problems(&tiny), ["config.json: `hidden_size` is 25, but must be a multiple of num_attention_heads, 2"]);
    let folder = tiny.write();
    let found = inspect(folder.path());
    assert_eq!((found.facts.len(), found.vocabulary), (0, None));
}

#[test]
fn all_that_is_wrong_with_tensors_is_told_at_once() {
    let mut tiny = Tiny::read("bert-embed");
    tiny.tensors.remove("encoder.layer.0.output.dense.bias").unwrap();
    tiny.tensors.get_mut("embeddings.LayerNorm.bias").unwrap().shape = vec![2, 16];
    let extra = tiny.tensors["embeddings.LayerNorm.weight"].clone();
    tiny.tensors.insert("adapter.weight".to_owned(), extra);
    assert_eq!(
        problems(&tiny),
        [
            "model.safetensors: tensor `embeddings.LayerNorm.bias` has shape [2, 16], expected [32]",
            "model.safetensors: tensor `encoder.layer.0.output.dense.bias` is missing",
            "model.safetensors: `adapter.weight`: tensors without a place in this architecture (1 in all)",
        ]
    );
}

#[test]
fn not_every_tensor_is_told_when_all_are_wrong() {
    let found = problems(&Tiny::read("bert-embed").set("hidden_size", 64));
    assert_eq!(found.len(), TENSORS_MAX + 1, "{found:?}");
    assert!(found[TENSORS_MAX].starts_with("model.safetensors: as much is wrong with "), "{found:?}");
}

#[test]
fn each_tensor_with_a_number_that_is_none_is_told() {
    let mut tiny = Tiny::read("bert-embed");
    for name in ["embeddings.LayerNorm.weight", "encoder.layer.1.output.dense.weight"] {
        tiny.tensors.get_mut(name).unwrap().data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    }
    let found = problems(&tiny);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("tensor `embeddings.LayerNorm.weight` has NaN at [0]"), "{found:?}");
    assert!(found[1].contains("tensor `encoder.layer.1.output.dense.weight` has NaN at [0, 0]"), "{found:?}");
}
