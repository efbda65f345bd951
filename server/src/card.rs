//! What a model is, in the server's own words. Made by the worker that loads it, kept after the worker is gone.

use std::sync::Arc;
use std::time::Duration;

use crate::call::DataType;

/// The input that tells which segment each token belongs to, of models that tell segments apart.
pub(crate) const TYPE_IDS: &str = "token_type_ids";

/// A model's card.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// The model's configured name.
    pub name: Arc<str>,
    /// A positive whole number in canonical form.
    pub version: Arc<str>,
    /// SHA-256 of the weights, lower-case hex; empty for models without weights.
    pub weights_sha256: String,
    /// For example `bert`.
    pub architecture: String,
    /// What it is for.
    pub task: Task,
    /// Length of an embedding; 0 where there is none.
    pub dims: u32,
    /// Class names, in the order of the scores.
    pub labels: Vec<String>,
    /// Tokens in one input at most, special tokens included; 0 for models without tokens.
    pub tokens_max: u32,
    /// Ids are in `[0, vocabulary)`.
    pub vocabulary: u32,
    /// Memory it takes.
    pub bytes: u64,
    /// Number of weights.
    pub parameters: u64,
    /// What it computes in: `f32`, `f16`, `bf16`, `int8` or `int8-mixed`.
    pub dtype: Arc<str>,
    /// Which backend runs it.
    pub backend: String,
    /// The instruction set of the backend's kernels; empty for one that has none of its own.
    pub instructions: String,
    /// SHA-256 of its tokenizer, lower-case hex; empty for models without one.
    pub tokenizer_sha256: String,
    /// Columns of a batch, shapes without the row dimension.
    pub inputs: Vec<TensorSpec>,
    /// Tensors of an answer, shapes without the row dimension.
    pub outputs: Vec<TensorSpec>,
    /// Whether it normalises embeddings unless asked not to.
    pub normalizes: bool,
    /// How the tokenizer spells the mask, and its id; empty and 0 for models that fill no masks.
    pub mask_token: String,
    pub mask_token_id: u32,
    /// Time to run its smallest batch, as measured at load.
    pub smallest_batch: Duration,
}

impl Card {
    /// Whether this is the same model, computed the same way: all but what each load measures anew.
    pub fn is_same_model(&self, other: &Self) -> bool {
        let Self { smallest_batch, bytes, .. } = *other;
        Self { smallest_batch, bytes, ..self.clone() } == *other
    }
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Embed,
    Classify,
    Rerank,
    FillMask,
    Generate,
    /// Tensors in, tensors out.
    Tensor,
}

impl Task {
    /// The task's name, as shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Classify => "classify",
            Self::Rerank => "rerank",
            Self::FillMask => "fill-mask",
            Self::Generate => "generate",
            Self::Tensor => "tensor",
        }
    }
}

/// One input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Type of its elements.
    pub data_type: DataType,
    /// Dimensions of one row; -1 where the length varies.
    pub shape: Vec<i64>,
}

#[cfg(test)]
impl Card {
    /// A model of no size that takes and gives tensors, for a test to say what is particular about its own.
    pub(crate) fn testing(name: &str) -> Self {
        Self {
            name: name.into(),
            version: "1".into(),
            weights_sha256: String::new(),
            architecture: "test".into(),
            task: Task::Tensor,
            dims: 0,
            labels: Vec::new(),
            tokens_max: 0,
            vocabulary: 0,
            bytes: 0,
            parameters: 0,
            dtype: "f32".into(),
            backend: "test".into(),
            instructions: String::new(),
            tokenizer_sha256: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            normalizes: false,
            mask_token: String::new(),
            mask_token_id: 0,
            smallest_batch: Duration::ZERO,
        }
    }
}
