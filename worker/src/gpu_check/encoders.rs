//! Encoders of well-known shapes with weights drawn at random: to time a model its numbers do not matter.

use std::fs;
use std::path::Path;

use half::bf16;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};

use super::{CheckError, say};
use crate::model::Model;
use crate::plan::Tensor;

/// What an encoder is built like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Norms behind blocks, a table of positions.
    Bert,
    /// Norms before blocks, gates, rotary positions, windows in two of three layers.
    ModernBert,
    /// The same with RMS norms, causal attention and heads of 128, of which two share keys.
    Qwen3,
}

/// The shape of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoder {
    /// What it is called in reports.
    pub name: &'static str,
    /// What it is built like.
    pub family: Family,
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
    pub const MINILM: Self = Self {
        name: "MiniLM",
        family: Family::Bert,
        layers: 6,
        hidden: 384,
        heads: 12,
        inner: 1536,
        vocabulary: 30_522,
    };
    /// bert-base-uncased: 110 million.
    pub const BERT_BASE: Self = Self {
        name: "BERT-base",
        family: Family::Bert,
        layers: 12,
        hidden: 768,
        heads: 12,
        inner: 3072,
        vocabulary: 30_522,
    };
    /// xlm-roberta-large: 560 million.
    pub const LARGE: Self = Self {
        name: "large",
        family: Family::Bert,
        layers: 24,
        hidden: 1024,
        heads: 16,
        inner: 4096,
        vocabulary: 250_002,
    };
    /// ModernBERT-base: 149 million.
    pub const MODERNBERT_BASE: Self = Self {
        name: "ModernBERT-base",
        family: Family::ModernBert,
        layers: 22,
        hidden: 768,
        heads: 12,
        inner: 1152,
        vocabulary: 50_368,
    };
    /// Qwen3-Embedding-0.6B: 596 million.
    pub const QWEN3_SMALL: Self = Self {
        name: "Qwen3-0.6B",
        family: Family::Qwen3,
        layers: 28,
        hidden: 1024,
        heads: 16,
        inner: 3072,
        vocabulary: 151_669,
    };
    /// For the emulator.
    pub const TINY: Self =
        Self { name: "tiny", family: Family::Bert, layers: 1, hidden: 64, heads: 2, inner: 128, vocabulary: 100 };
    /// For the emulator, too.
    pub const TINY_MODERNBERT: Self =
        Self { name: "tiny-modernbert", family: Family::ModernBert, layers: 2, ..Self::TINY };
    /// For the emulator, too.
    pub const TINY_QWEN3: Self = Self { name: "tiny-qwen3", family: Family::Qwen3, ..Self::TINY };

    /// Writes it in Hugging Face layout.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, folder: &Path, seed: u64) -> Result<(), CheckError> {
        fs::create_dir_all(folder).map_err(say)?;
        fs::write(folder.join("config.json"), self.config().to_string()).map_err(say)?;
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
                    _ if name.to_lowercase().contains("norm") && name.ends_with("weight") => (1.0, 0.2),
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

    fn config(&self) -> Value {
        let mut config = match self.family {
            Family::Bert => json!({
                "architectures": ["BertModel"],
                "model_type": "bert",
                "hidden_act": "gelu",
                "layer_norm_eps": 1e-12,
                "max_position_embeddings": 512,
                "position_embedding_type": "absolute",
                "type_vocab_size": 2,
            }),
            Family::ModernBert => json!({
                "architectures": ["ModernBertModel"],
                "model_type": "modernbert",
                "global_attn_every_n_layers": 3,
                "global_rope_theta": 160_000.0,
                "hidden_activation": "gelu",
                "local_attention": 128,
                "local_rope_theta": 10_000.0,
                "max_position_embeddings": 8192,
            }),
            Family::Qwen3 => json!({
                "architectures": ["Qwen3Model"],
                "model_type": "qwen3",
                "head_dim": 2 * self.hidden / self.heads,
                "hidden_act": "silu",
                "max_position_embeddings": 32_768,
                "num_key_value_heads": self.heads / 2,
                "rms_norm_eps": 1e-6,
                "rope_theta": 1e6,
            }),
        };
        config["hidden_size"] = self.hidden.into();
        config["intermediate_size"] = self.inner.into();
        config["num_attention_heads"] = self.heads.into();
        config["num_hidden_layers"] = self.layers.into();
        config["vocab_size"] = self.vocabulary.into();
        config
    }
}
