//! What a plan takes, by the sizes of a batch.

use super::{BufferId, Mask, Op, Plan, Rows, Tensor, Weight};

/// Sizes of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// T
    pub(crate) tokens: u64,
    /// N
    pub(crate) sequences: u64,
    /// M
    pub(crate) marks: u64,
    /// ΣL², the squared lengths of sequences summed.
    pub(crate) squares: u64,
}

/// What one op, or a whole plan, takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Floating-point operations of matrix products and attention, a multiply-add being two. What else is done per
    /// number is not counted.
    pub(crate) flop: u64,
    /// Numbers of weights read at least once.
    pub(crate) weights: u64,
    /// Numbers read from and written to buffers.
    pub(crate) values: u64,
}

impl Sizes {
    /// `count` sequences of `length` tokens, with one mark each.
    pub(crate) fn uniform(count: u64, length: u64) -> Self {
        Self { tokens: count * length, sequences: count, marks: count, squares: count * length * length }
    }

    /// Pairs of tokens of which one looks at the other. In sequences shorter than a window there may be fewer.
    fn pairs(&self, mask: Mask) -> u64 {
        match mask {
            Mask::None => self.squares,
            Mask::Causal => (self.squares + self.tokens) / 2,
            Mask::Window(reach) => self.squares.min(self.tokens * (2 * reach as u64 + 1)),
        }
    }

    pub(crate) fn rows(&self, rows: Rows) -> u64 {
        match rows {
            Rows::Tokens => self.tokens,
            Rows::Sequences => self.sequences,
            Rows::Marks => self.marks,
        }
    }
}

impl Plan {
    /// What one op takes.
    pub(crate) fn op_cost(&self, op: &Op, sizes: &Sizes) -> Cost {
        let size = |id: BufferId| self[id].width as u64 * sizes.rows(self[id].rows);
        let flop = match op {
            Op::Gemm { input, weight, .. } => {
                let (outputs, inputs) = self[*weight].size();
                2 * sizes.rows(self[*input].rows) * (outputs * inputs) as u64
            }
            // q · k and p · v, each as many times the width as there are pairs.
            Op::Attend { mask, output, .. } => 4 * sizes.pairs(*mask) * self[*output].width as u64,
            _ => 0,
        };
        // Of tables only the rows that are looked up are read.
        let weights = match op {
            Op::Embed { positions, types, .. } => {
                (1 + u64::from(positions.is_some()) + u64::from(types.is_some())) * size(op.output())
            }
            _ => op.weights().map(|id| self.weight_values(id)).sum(),
        };
        Cost { flop, weights, values: op.inputs().map(size).sum::<u64>() + size(op.output()) }
    }

    /// What all ops take together.
    pub(crate) fn cost(&self, sizes: &Sizes) -> Cost {
        self.ops.iter().map(|op| self.op_cost(op, sizes)).fold(Cost::default(), |sum, cost| Cost {
            flop: sum.flop + cost.flop,
            weights: sum.weights + cost.weights,
            values: sum.values + cost.values,
        })
    }

    /// Numbers learnt, counting a tensor that two weights share once.
    pub(crate) fn parameters(&self) -> u64 {
        fn each(weight: &Weight) -> Vec<(&Tensor, u64)> {
            let values = |tensor: &Tensor| match tensor.shape[..] {
                [rows, columns] => (rows - weight.skip) * columns,
                _ => tensor.shape[0],
            };
            weight.tensors.iter().map(|tensor| (tensor, values(tensor) as u64)).collect()
        }
        let mut tensors: Vec<(&Tensor, u64)> = self.weights.iter().flat_map(each).collect();
        tensors.sort_unstable();
        tensors.dedup_by_key(|(tensor, _)| &tensor.name);
        tensors.iter().map(|(_, values)| values).sum()
    }

    /// Numbers of a weight.
    pub(super) fn weight_values(&self, id: super::WeightId) -> u64 {
        let (rows, columns) = self[id].size();
        (rows * columns) as u64
    }
}
