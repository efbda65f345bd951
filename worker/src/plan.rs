//! What a model computes, as data: a list of fused ops over packed sequences, with the buffers between them and the
//! weights they read. An architecture makes its plan once, from its settings; executors run it, plan memory from it and
//! print it. Nothing here touches a weight's values.
//!
//! Sizes are symbolic: T tokens of all sequences, one after the other with no padding; N sequences; M marked tokens,
//! which are those a masked-LM head looks at. A buffer is a matrix with one row for each of these.
//!
//! A plan is in static single assignment form: every buffer is written by exactly one op, and only read after it.
//! Executors may keep a buffer in any type and any memory, and two in the same when their lives do not overlap.

mod builder;
mod check;
mod cost;
mod lives;
mod show;
#[cfg(test)]
mod tests;

use std::ops::Index;

pub(crate) use builder::{Builder, Dense};
pub(crate) use check::PlanError;
pub(crate) use cost::Sizes;

/// What a model computes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) weights: Vec<Weight>,
    pub(crate) ops: Vec<Op>,
    /// What is handed out when the ops are done.
    pub(crate) output: BufferId,
}

/// Names a buffer of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BufferId(pub(crate) usize);

/// Names a weight of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WeightId(pub(crate) usize);

/// A matrix between ops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Buffer {
    /// For people, such as `layer 3 qkv`.
    pub(crate) name: String,
    pub(crate) rows: Rows,
    /// Numbers in a row.
    pub(crate) width: usize,
}

/// What a matrix has one row for each of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// T
    Tokens,
    /// N
    Sequences,
    /// M
    Marks,
}

/// A matrix or vector that was learnt: tensors of a checkpoint, one below the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Names in the checkpoint. Each tensor has the same shape.
    pub(crate) tensors: Vec<String>,
    /// Shape of one of them: `[rows, columns]`, or `[columns]` for a vector.
    pub(crate) shape: Vec<usize>,
    /// Rows at the top that are left out, such as the positions that RoBERTa never uses.
    pub(crate) skip: usize,
}

/// A layer norm: `(x - mean) / sqrt(variance + epsilon) · gain + shift` over each row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Norm {
    /// [H]
    pub(crate) gain: WeightId,
    /// [H]
    pub(crate) shift: WeightId,
    pub(crate) epsilon: f32,
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Identity,
    /// `x Φ(x)`, with Φ the normal distribution function.
    Gelu,
    /// The GELU's approximation by a hyperbolic tangent.
    GeluTanh,
    /// `x / (1 + e^-x)`
    Silu,
    Relu,
    Tanh,
}

#[cfg(any(test, feature = "gpu-check"))]
impl Activation {
    pub(crate) const ALL: [Self; 6] = [Self::Identity, Self::Gelu, Self::GeluTanh, Self::Silu, Self::Relu, Self::Tanh];
}

#[cfg(any(test, feature = "gpu-check"))]
impl Pooling {
    pub(crate) const ALL: [Self; 3] = [Self::Mean, Self::Cls, Self::Max];
}

/// How the vectors of a sequence become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    Mean,
    /// The first token's.
    Cls,
    /// The largest in each dimension.
    Max,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// `out[t] = norm(words[id[t]] + positions[place of t in its sequence] + types[type[t]])`
    Embed {
        /// [V, H]
        words: WeightId,
        /// [P, H]
        positions: WeightId,
        /// [S, H]; a batch without types has type 0 everywhere.
        types: Option<WeightId>,
        norm: Norm,
        /// [T, H]
        output: BufferId,
    },
    /// `out[r] = activation(input[r] · weightᵀ + bias)`
    Gemm {
        /// [R, K]
        input: BufferId,
        /// [L, K], as checkpoints have it
        weight: WeightId,
        /// [L]
        bias: Option<WeightId>,
        activation: Activation,
        /// [R, L]
        output: BufferId,
    },
    /// `out[t, h] = Σ_j softmax_j(scale · q[t, h] · k[j, h]) v[j, h]` over the tokens j of t's own sequence, for each head
    /// h of width D. Rows of the input are query, key and value, each `heads · D` wide, head after head.
    Attend {
        /// [T, 3 · heads · D]
        qkv: BufferId,
        heads: usize,
        scale: f32,
        /// [T, heads · D]
        output: BufferId,
    },
    /// `out[r] = norm(input[r] + residual[r])`
    AddNorm {
        /// [R, H]
        input: BufferId,
        /// [R, H]
        residual: Option<BufferId>,
        norm: Norm,
        /// [R, H]
        output: BufferId,
    },
    /// One row from the rows of each sequence.
    Pool {
        /// [T, H]
        input: BufferId,
        pooling: Pooling,
        /// [N, H]
        output: BufferId,
    },
    /// The rows of marked tokens, in order.
    Pick {
        /// [T, H]
        input: BufferId,
        /// [M, H]
        output: BufferId,
    },
}

impl Index<BufferId> for Plan {
    type Output = Buffer;

    fn index(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0]
    }
}

impl Index<WeightId> for Plan {
    type Output = Weight;

    fn index(&self, id: WeightId) -> &Weight {
        &self.weights[id.0]
    }
}

impl Weight {
    /// Rows and columns of the whole; a vector is one row.
    pub(crate) fn size(&self) -> (usize, usize) {
        match self.shape[..] {
            [rows, columns] => (self.tensors.len() * (rows - self.skip), columns),
            [columns] => (1, self.tensors.len() * columns),
            _ => unreachable!("a plan's weights are matrices and vectors"),
        }
    }
}

impl Op {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Embed { .. } => "embed",
            Self::Gemm { .. } => "gemm",
            Self::Attend { .. } => "attend",
            Self::AddNorm { .. } => "add-norm",
            Self::Pool { .. } => "pool",
            Self::Pick { .. } => "pick",
        }
    }

    /// The buffer it writes.
    pub(crate) fn output(&self) -> BufferId {
        match self {
            Self::Embed { output, .. }
            | Self::Gemm { output, .. }
            | Self::Attend { output, .. }
            | Self::AddNorm { output, .. }
            | Self::Pool { output, .. }
            | Self::Pick { output, .. } => *output,
        }
    }

    /// The buffers it reads.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = BufferId> {
        let (first, second) = match self {
            Self::Embed { .. } => (None, None),
            Self::Gemm { input, .. } | Self::Pool { input, .. } | Self::Pick { input, .. } => (Some(*input), None),
            Self::Attend { qkv, .. } => (Some(*qkv), None),
            Self::AddNorm { input, residual, .. } => (Some(*input), *residual),
        };
        first.into_iter().chain(second)
    }

    /// The weights it reads.
    pub(crate) fn weights(&self) -> impl Iterator<Item = WeightId> {
        let of_norm = |norm: &Norm| [Some(norm.gain), Some(norm.shift)];
        let [gain, shift] = match self {
            Self::Embed { norm, .. } | Self::AddNorm { norm, .. } => of_norm(norm),
            _ => [None, None],
        };
        let others = match self {
            Self::Embed { words, positions, types, .. } => [Some(*words), Some(*positions), *types],
            Self::Gemm { weight, bias, .. } => [Some(*weight), *bias, None],
            _ => [None, None, None],
        };
        others.into_iter().chain([gain, shift]).flatten()
    }
}

/// The packed sequences of one batch, as every executor takes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed<'a> {
    /// [T], each below the vocabulary.
    pub(crate) ids: &'a [u32],
    /// [T], each below the number of types; empty means 0 everywhere.
    pub(crate) types: &'a [u32],
    /// [N + 1]: where sequences begin and, last, where they end. No sequence is empty or longer than the model takes.
    pub(crate) splits: &'a [usize],
    /// [M]: rising positions in `ids`.
    pub(crate) marks: &'a [usize],
}

impl Packed<'_> {
    /// How many rows of that kind the batch has.
    pub(crate) fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.ids.len(),
            Rows::Sequences => self.splits.len() - 1,
            Rows::Marks => self.marks.len(),
        }
    }
}
