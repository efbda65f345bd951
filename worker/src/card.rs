//! What a model is: made by a backend when it reads the model, sent to the server when the model is ready.

use std::time::Duration;

use crate::batch::DataType;

/// A model's description.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelCard {
    /// SHA-256 of the weights file, lower-case hex; empty for models without weights.
    pub(crate) weights_sha256: String,
    pub(crate) architecture: &'static str,
    pub(crate) task: Task,
    /// Length of an embedding; 0 where there is none.
    pub(crate) dims: u32,
    /// Class names, in the order of the scores; empty for models that do not classify.
    pub(crate) labels: Vec<String>,
    /// Tokens in one input at most, special tokens included; 0 for models without tokens.
    pub(crate) tokens_max: u32,
    /// Ids are in [0, vocabulary); 0 for models without token ids.
    pub(crate) vocabulary: u32,
    /// Memory the model takes.
    pub(crate) bytes: u64,
    pub(crate) parameters: u64,
    /// What it computes in.
    pub(crate) dtype: &'static str,
    pub(crate) backend: &'static str,
    /// The instruction set of the backend's kernels; empty for one that has none of its own.
    pub(crate) instructions: &'static str,
    /// SHA-256 of its tokenizer.json, lower-case hex; empty for models without one.
    pub(crate) tokenizer_sha256: String,
    pub(crate) inputs: Vec<TensorSpec>,
    pub(crate) outputs: Vec<TensorSpec>,
    /// Whether the model normalises its embeddings unless asked not to.
    pub(crate) normalizes: bool,
    /// How the tokenizer spells the mask, and its id; empty and 0 for models that fill no masks.
    pub(crate) mask_token: String,
    pub(crate) mask_token_id: u32,
    /// Time to run its smallest batch, as measured at load.
    pub(crate) smallest_batch: Duration,
}

impl ModelCard {
    /// Whether a row's length in its first input counts as tokens.
    pub(crate) fn has_tokens(&self) -> bool {
        self.tokens_max > 0
    }
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Embed,
    Classify,
    Rerank,
    FillMask,
    /// Tensors in, tensors out.
    Tensor,
}

impl Task {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Classify => "classify",
            Self::Rerank => "rerank",
            Self::FillMask => "fill-mask",
            Self::Tensor => "tensor",
        }
    }
}

/// One input or output, without the row dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    pub(crate) name: &'static str,
    pub(crate) data_type: DataType,
    /// -1 is a length that varies; an input has one at most.
    pub(crate) shape: Vec<i64>,
}

impl TensorSpec {
    pub(crate) fn new(name: &'static str, data_type: DataType, shape: &[i64]) -> Self {
        Self { name, data_type, shape: shape.to_vec() }
    }
}
