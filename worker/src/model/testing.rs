//! A tiny BERT with random weights, as a folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const VOCABULARY: usize = 50;
pub(crate) const HIDDEN: usize = 24;
pub(crate) const HEADS: usize = 3;
pub(crate) const LAYERS: usize = 2;
pub(crate) const INNER: usize = 40;
pub(crate) const POSITIONS: usize = 64;

/// Shape and values.
pub(crate) type Values = (Vec<usize>, Vec<f32>);

/// A model's files, before they are written.
pub(crate) struct TinyBert {
    pub(crate) config: Value,
    pub(crate) modules: Value,
    pub(crate) pooling: Value,
    pub(crate) sentence: Value,
    pub(crate) tensors: BTreeMap<String, Values>,
}

impl TinyBert {
    pub(crate) fn new() -> Self {
        let module =
            |path: &str, kind: &str| json!({ "path": path, "type": format!("sentence_transformers.models.{kind}") });
        Self {
            config: json!({
                "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12,
                "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_attention_heads": HEADS,
                "num_hidden_layers": LAYERS, "intermediate_size": INNER, "max_position_embeddings": POSITIONS,
                "type_vocab_size": 2,
            }),
            modules: json!([
                module("", "Transformer"),
                module("1_Pooling", "Pooling"),
                module("2_Normalize", "Normalize")
            ]),
            pooling: json!({ "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true }),
            sentence: json!({ "max_seq_length": 48 }),
            tensors: tensors(),
        }
    }

    /// Names every tensor as a model with a head does.
    pub(crate) fn prefixed(mut self) -> Self {
        self.tensors = self.tensors.into_iter().map(|(name, values)| (format!("bert.{name}"), values)).collect();
        self
    }

    pub(crate) fn write(&self) -> TempDir {
        let folder = TempDir::new().unwrap();
        self.write_settings(folder.path());
        let bytes: BTreeMap<&String, (&Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| (name, (shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())))
            .collect();
        let views = bytes.iter().map(|(name, (shape, data))| {
            ((*name).clone(), TensorView::new(Dtype::F32, (*shape).clone(), data).unwrap())
        });
        serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
        folder
    }

    pub(crate) fn write_settings(&self, folder: &Path) {
        fs::create_dir_all(folder.join("1_Pooling")).unwrap();
        let files = [
            ("config.json", &self.config),
            ("modules.json", &self.modules),
            ("1_Pooling/config.json", &self.pooling),
            ("sentence_bert_config.json", &self.sentence),
        ];
        for (name, value) in files {
            if !value.is_null() {
                fs::write(folder.join(name), value.to_string()).unwrap();
            }
        }
        fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    }
}

fn tensors() -> BTreeMap<String, Values> {
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        // Gains near 1 and small weights keep tokens apart, so that a mix-up of any two shows.
        let (centre, spread) = match &*name {
            name if name.ends_with("LayerNorm.weight") => (1.0, 0.3),
            name if name.starts_with("embeddings") => (0.0, 1.0),
            _ => (0.0, 0.3),
        };
        let values = (0..shape.iter().product()).map(|_| centre + spread * random()).collect();
        tensors.insert(name, (shape.to_vec(), values));
    };
    add("embeddings.word_embeddings.weight".to_owned(), &[VOCABULARY, HIDDEN]);
    add("embeddings.position_embeddings.weight".to_owned(), &[POSITIONS, HIDDEN]);
    add("embeddings.token_type_embeddings.weight".to_owned(), &[2, HIDDEN]);
    let mut dense = vec![];
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in 0..LAYERS {
        let at = format!("encoder.layer.{layer}");
        for part in ["query", "key", "value"] {
            dense.push((format!("{at}.attention.self.{part}"), HIDDEN, HIDDEN));
        }
        dense.push((format!("{at}.attention.output.dense"), HIDDEN, HIDDEN));
        dense.push((format!("{at}.intermediate.dense"), INNER, HIDDEN));
        dense.push((format!("{at}.output.dense"), HIDDEN, INNER));
        norms.push(format!("{at}.attention.output.LayerNorm"));
        norms.push(format!("{at}.output.LayerNorm"));
    }
    for (name, outputs, inputs) in dense {
        add(format!("{name}.weight"), &[outputs, inputs]);
        add(format!("{name}.bias"), &[outputs]);
    }
    for name in norms {
        add(format!("{name}.weight"), &[HIDDEN]);
        add(format!("{name}.bias"), &[HIDDEN]);
    }
    tensors
}
