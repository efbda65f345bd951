//! Encoders of well-known shapes with weights drawn at random: to time a model its numbers do not matter.

use std::fs;
use std::path::Path;

use half::bf16;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::json;

use super::{CheckError, say};
use crate::model::Model;
use crate::plan::Tensor;

/// The shape of a BERT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoder {
    /// What it is called in reports.
    pub name: &'static str,
    /// Blocks.
    pub layers: usize,
    /// Width of a token's vector.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width between the two products of a block.
    pub inner: usize,
    /// Rows of the table of words.
    pub vocabulary: usize,
}

impl Encoder {
    /// all-MiniLM-L6-v2: 23 million parameters.
    pub const MINILM: Self =
        Self { name: "MiniLM", layers: 6, hidden: 384, heads: 12, inner: 1536, vocabulary: 30_522 };
    /// bert-base-uncased: 110 million.
    pub const BERT_BASE: Self =
        Self { name: "BERT-base", layers: 12, hidden: 768, heads: 12, inner: 3072, vocabulary: 30_522 };
    /// xlm-roberta-large: 560 million.
    pub const LARGE: Self =
        Self { name: "large", layers: 24, hidden: 1024, heads: 16, inner: 4096, vocabulary: 250_002 };
    /// For the emulator.
    pub const TINY: Self = Self { name: "tiny", layers: 1, hidden: 64, heads: 2, inner: 128, vocabulary: 100 };

    /// Writes it in Hugging Face layout.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, folder: &Path, seed: u64) -> Result<(), CheckError> {
        let config = json!({
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 512,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "position_embedding_type": "absolute",
            "type_vocab_size": 2,
            "vocab_size": self.vocabulary,
        });
        fs::create_dir_all(folder).map_err(say)?;
        fs::write(folder.join("config.json"), config.to_string()).map_err(say)?;
        let weights = folder.join("model.safetensors");
        // The plan says which tensors there are; it is made from the settings alone.
        if !weights.exists() {
            fs::write(&weights, []).map_err(say)?;
        }
        let plan = Model::read(folder).map_err(say)?.plan;
        let mut random = StdRng::seed_from_u64(seed);
        let mut tensors = Vec::new();
        for weight in &plan.weights {
            for Tensor { name, shape } in &weight.tensors {
                let count: usize = shape.iter().product();
                // Such that every layer puts out about as much as it takes in.
                let (centre, spread) = match shape[..] {
                    [_, inputs] if !name.contains("embed") => (0.0, (3.0 / inputs as f32).sqrt()),
                    [_, _] => (0.0, 1.0),
                    _ if name.ends_with("LayerNorm.weight") => (1.0, 0.2),
                    _ => (0.0, 0.1),
                };
                let mut number = || bf16::from_f32(centre + spread * random.random_range(-1.0..1.0f32)).to_le_bytes();
                let data: Vec<u8> = (0..count).flat_map(|_| number()).collect();
                tensors.push((name.clone(), shape.clone(), data));
            }
        }
        tensors.sort_by(|one, other| one.0.cmp(&other.0));
        tensors.dedup_by(|one, other| one.0 == other.0);
        let views: Result<Vec<_>, _> = tensors
            .iter()
            .map(|(name, shape, data)| Ok((name.clone(), TensorView::new(Dtype::BF16, shape.clone(), data)?)))
            .collect();
        let views = views.map_err(|error: safetensors::SafeTensorError| say(error))?;
        serialize_to_file(views, None, &weights).map_err(say)
    }
}
