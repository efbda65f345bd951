//! The encoder that BERT and its relatives share: after each block, what came in is added and normalised.
//!
//! T tokens of all sequences, H the hidden size, F the size between the two halves of a feed-forward block.
//!
//! ```text
//! x    [T, H]   word + position + token type, layer norm
//! for each layer:
//!   qkv  [T, 3H]  x · Wqkvᵀ + b
//!   ctx  [T, H]   attention within each sequence
//!   y    [T, H]   layer norm(ctx · Woᵀ + b + x)
//!   f    [T, F]   activation(y · Wupᵀ + b)
//!   x    [T, H]   layer norm(f · Wdownᵀ + b + y)
//! ```

use super::architecture::Encoded;
use crate::plan::{Activation, BufferId, Builder, Heads, Mask};

/// Sizes of an encoder and the names of its tensors.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    pub(super) embeddings: Embeddings,
    /// H
    pub(super) hidden: usize,
    pub(super) heads: usize,
    /// F
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) activation: Activation,
    pub(super) epsilon: f32,
    pub(super) names: &'static LayerNames,
}

/// Sizes of the tables.
#[derive(Clone, Debug)]
pub(super) struct Embeddings {
    pub(super) vocabulary: usize,
    pub(super) positions: usize,
    /// Positions at the start that no token has.
    pub(super) skip: usize,
    /// Kinds of tokens, if there is a table of them.
    pub(super) types: Option<usize>,
}

/// What the tensors of a layer are called, after the layer's own name.
#[derive(Debug)]
pub(super) struct LayerNames {
    pub(super) layer: &'static str,
    pub(super) qkv: [&'static str; 3],
    pub(super) out: &'static str,
    pub(super) out_norm: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) down_norm: &'static str,
}

impl Encoder {
    /// Writes the encoder and says where its last states are, [T, H].
    pub(super) fn write(&self, plan: &mut Builder) -> BufferId {
        let mut x = self.embed(plan);
        for index in 0..self.layers {
            x = self.layer(index, x, plan);
        }
        x
    }

    /// What heads need to know of it.
    pub(super) fn encoded(&self, states: BufferId, types: usize) -> Encoded {
        Encoded {
            states,
            hidden: self.hidden,
            vocabulary: self.embeddings.vocabulary,
            tokens_max: self.embeddings.positions - self.embeddings.skip,
            types,
            activation: self.activation,
            epsilon: self.epsilon,
        }
    }

    fn embed(&self, plan: &mut Builder) -> BufferId {
        let Embeddings { vocabulary, positions, skip, types } = self.embeddings;
        let mut table = |name: &str, rows: usize, skip: usize| {
            plan.weight(&[format!("embeddings.{name}_embeddings.weight")], &[rows, self.hidden], skip)
        };
        let words = table("word", vocabulary, 0);
        let positions = table("position", positions, skip);
        let types = types.map(|types| table("token_type", types, 0));
        let norm = plan.norm("embeddings.LayerNorm", self.hidden, self.epsilon);
        plan.embed(words, Some(positions), types, Some(norm))
    }

    fn layer(&self, index: usize, x: BufferId, plan: &mut Builder) -> BufferId {
        let (names, h, f) = (self.names, self.hidden, self.inner);
        let tensor = |name: &str| format!("{}.{index}.{name}", names.layer);
        let buffer = |what: &str| format!("layer {index} {what}");

        let qkv = plan.stacked(&names.qkv.map(tensor), (h, h), Activation::Identity);
        let qkv = plan.gemm(&buffer("qkv"), x, qkv);
        let heads = Heads { count: self.heads, shared: self.heads, width: h / self.heads };
        let context = plan.attend(&buffer("context"), qkv, heads, Mask::None);
        let out = plan.dense(&tensor(names.out), (h, h), Activation::Identity);
        let out = plan.gemm(&buffer("attention"), context, out);
        let norm = plan.norm(&tensor(names.out_norm), h, self.epsilon);
        let y = plan.add_norm(&buffer("attention norm"), out, Some(x), norm);

        let up = plan.dense(&tensor(names.up), (f, h), self.activation);
        let up = plan.gemm(&buffer("up"), y, up);
        let down = plan.dense(&tensor(names.down), (h, f), Activation::Identity);
        let down = plan.gemm(&buffer("down"), up, down);
        let norm = plan.norm(&tensor(names.down_norm), h, self.epsilon);
        plan.add_norm(&buffer("output"), down, Some(y), norm)
    }
}
