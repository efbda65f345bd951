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

use std::ops::{Index, Range};

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
    /// Matrices of as many columns, or vectors. There is one.
    pub(crate) tensors: Vec<Tensor>,
    /// Rows at the top of each that are left out, such as the positions that RoBERTa never uses.
    pub(crate) skip: usize,
}

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// `[rows, columns]`, or `[columns]` for a vector.
    pub(crate) shape: Vec<usize>,
}

/// Brings each row to one size, then multiplies by a gain and adds a shift.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    /// [H]
    pub(crate) gain: WeightId,
    /// [H]
    pub(crate) shift: Option<WeightId>,
    pub(crate) epsilon: f32,
}

/// By what a norm divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// Layer norm: `(x - mean) / sqrt(variance + epsilon)`
    Layer,
    /// RMS norm: `x / sqrt(mean of squares + epsilon)`
    Rms,
}

/// Heads of attention, and where they stand in a row of queries, keys and values: first all queries, head after head,
/// then all keys, then all values. Several heads of queries may share one of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// Heads of queries.
    pub(crate) count: usize,
    /// Heads of keys, and of values: a divisor of `count`.
    pub(crate) shared: usize,
    /// D, the numbers of one head in a row
    pub(crate) width: usize,
}

/// Which tokens of its own sequence a token looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mask {
    /// All of them.
    None,
    /// Itself and those before it.
    Causal,
    /// Those at most so far away, to either side.
    Window(usize),
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
    pub(crate) const ALL: [Self; 4] = [Self::Mean, Self::Cls, Self::Max, Self::Last];
}

/// How the vectors of a sequence become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    Mean,
    /// The first token's.
    Cls,
    /// The largest in each dimension.
    Max,
    /// The last token's.
    Last,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// `out[t] = norm(words[id[t]] + positions[place of t in its sequence] + types[type[t]])`, of what there is
    Embed {
        /// [V, H]
        words: WeightId,
        /// [P, H]
        positions: Option<WeightId>,
        /// [S, H]; a batch without types has type 0 everywhere.
        types: Option<WeightId>,
        norm: Option<Norm>,
        /// [T, H]
        output: BufferId,
    },
    /// `out[r] = activation(input[r] · weightᵀ + bias) + residual[r]`
    Gemm {
        /// [R, K]
        input: BufferId,
        /// [L, K], as checkpoints have it
        weight: WeightId,
        /// [L]
        bias: Option<WeightId>,
        activation: Activation,
        /// [R, L]
        residual: Option<BufferId>,
        /// [R, L]
        output: BufferId,
    },
    /// `out[r, i] = activation(input[r, i]) · input[r, W + i]`
    Gate {
        /// [R, 2W]
        input: BufferId,
        activation: Activation,
        /// [R, W]
        output: BufferId,
    },
    /// Rotary positions: each head of queries and of keys is normalised, where there are norms, and numbers d and D/2 + d
    /// of it are turned by the angle `p · base^(-2d/D)`, p being the token's place in its sequence. Values stay.
    Rotate {
        /// [T, Q]
        qkv: BufferId,
        heads: Heads,
        /// Of a head of queries and one of keys, each [D].
        norms: Option<[Norm; 2]>,
        base: f32,
        /// [T, Q]
        output: BufferId,
    },
    /// `out[t, h] = Σ_j softmax_j(scale · q[t, h] · k[j, h]) v[j, h]` over the tokens j of t's own sequence that the mask
    /// lets t see, for each head h.
    Attend {
        /// [T, Q]
        qkv: BufferId,
        heads: Heads,
        mask: Mask,
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

impl Plan {
    /// The width of heads and the base of each rotation.
    pub(crate) fn rotations(&self) -> impl Iterator<Item = (usize, f32)> {
        self.ops.iter().filter_map(|op| match op {
            Op::Rotate { heads, base, .. } => Some((heads.width, *base)),
            _ => None,
        })
    }

    /// The heads of the attention that reads a buffer, and what it scales their products with.
    pub(crate) fn attention_over(&self, buffer: BufferId) -> Option<(Heads, f32)> {
        self.ops.iter().find_map(|op| match op {
            Op::Attend { qkv, heads, scale, .. } if *qkv == buffer => Some((*heads, *scale)),
            _ => None,
        })
    }
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
        let sum = |of: fn(&Tensor) -> usize| self.tensors.iter().map(of).sum::<usize>();
        match self.tensors[0].shape[..] {
            [_, columns] => (sum(|tensor| tensor.shape[0]) - self.tensors.len() * self.skip, columns),
            _ => (1, sum(|tensor| tensor.shape[0])),
        }
    }

    /// Whether it is one row by nature: a bias, a gain or the like.
    pub(crate) fn is_vector(&self) -> bool {
        self.tensors[0].shape.len() == 1
    }
}

impl Heads {
    /// Numbers of a row that are queries, and of one that attention writes.
    pub(crate) fn queries(&self) -> usize {
        self.count * self.width
    }

    /// Numbers of a row that are keys, and as many are values.
    pub(crate) fn keys(&self) -> usize {
        self.shared * self.width
    }

    /// Q, the numbers of a row
    pub(crate) fn row(&self) -> usize {
        self.queries() + 2 * self.keys()
    }

    /// Where in a row a head of queries begins, and the keys and values that it looks at.
    pub(crate) fn columns(&self, head: usize) -> [usize; 3] {
        let shared = head / (self.count / self.shared) * self.width;
        [head * self.width, self.queries() + shared, self.queries() + self.keys() + shared]
    }
}

impl Mask {
    /// The tokens that the one at `place` of a sequence looks at.
    pub(crate) fn seen(self, place: usize, length: usize) -> Range<usize> {
        match self {
            Self::None => 0..length,
            Self::Causal => 0..place + 1,
            Self::Window(reach) => {
                place.saturating_sub(reach)..length.min(place.saturating_add(reach).saturating_add(1))
            }
        }
    }
}

impl Op {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Embed { .. } => "embed",
            Self::Gemm { .. } => "gemm",
            Self::Gate { .. } => "gate",
            Self::Rotate { .. } => "rotate",
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
            | Self::Gate { output, .. }
            | Self::Rotate { output, .. }
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
            Self::Gate { input, .. } | Self::Pool { input, .. } | Self::Pick { input, .. } => (Some(*input), None),
            Self::Rotate { qkv, .. } | Self::Attend { qkv, .. } => (Some(*qkv), None),
            Self::Gemm { input, residual, .. } | Self::AddNorm { input, residual, .. } => (Some(*input), *residual),
        };
        first.into_iter().chain(second)
    }

    /// The weights it reads.
    pub(crate) fn weights(&self) -> impl Iterator<Item = WeightId> {
        let others = match self {
            Self::Embed { words, positions, types, .. } => [Some(*words), *positions, *types],
            Self::Gemm { weight, bias, .. } => [Some(*weight), *bias, None],
            _ => [None, None, None],
        };
        let of_norms = self.norms().flat_map(|norm| [Some(norm.gain), norm.shift]);
        others.into_iter().chain(of_norms).flatten()
    }

    /// The norms it applies.
    pub(crate) fn norms(&self) -> impl Iterator<Item = &Norm> {
        let [first, second] = match self {
            Self::Embed { norm, .. } => [norm.as_ref(), None],
            Self::AddNorm { norm, .. } => [Some(norm), None],
            Self::Rotate { norms: Some([queries, keys]), .. } => [Some(queries), Some(keys)],
            _ => [None, None],
        };
        first.into_iter().chain(second)
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
