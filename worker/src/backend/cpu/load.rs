//! A program's weights, from a checkpoint into the form that kernels read them in.

use std::f32::consts::LOG2_E;

use super::net::{Kind, Norm, Weights};
use super::program::{Program, Task};
use crate::cpu::memory::{Aligned, Plain};
use crate::cpu::simd::Number;
use crate::model::ReadError;
use crate::model::weights::Bound;
use crate::ops::embed::cpu::PADDING;
use crate::ops::gemm::pack::{Packed, Product};
use crate::plan::{self, Op, Plan, WeightId};

/// Rows of a table after which their pages are given back.
const ROWS_RELEASED: usize = 1024;

/// How much of the difference between columns is taken from activations to weights.
const EVENING: f32 = 0.85;
/// No size is taken to be smaller.
const WEIGHT_MIN: f32 = 1e-6;

/// Reads what each task needs. `progress` is told the part that is done.
pub(super) fn load<D: Kind>(
    plan: &Plan,
    program: &Program,
    bound: &Bound<'_>,
    progress: &mut dyn FnMut(f32),
) -> Result<Vec<Weights<D>>, ReadError> {
    let reader = Reader { plan, bound };
    let count = program.tasks.len();
    let load = |(index, task): (usize, &Task)| {
        progress(index as f32 / count as f32);
        Ok(match *task {
            Task::Embed { words, positions, types, norm, .. } => {
                let types = types.map(|types| reader.table(types)).transpose()?;
                let (words, positions) = (reader.table(words)?, reader.table(positions)?);
                Weights::Embed { words, positions, types, norm: reader.norm(norm)? }
            }
            Task::Gemm { weight, bias, range: None, .. } => Weights::Gemm(reader.matrix(weight, bias, None)?),
            Task::Gemm { weight, bias, range: Some(_), .. } => {
                let factors = reader.evening(weight)?;
                Weights::GemmInt8(reader.matrix(weight, bias, factors.as_deref())?)
            }
            Task::Quantise { weight, .. } => {
                let inverse = |factors: Vec<f32>| factors.into_iter().map(f32::recip).chain([0.0; PADDING]).collect();
                Weights::Quantise(reader.evening(weight)?.map(inverse))
            }
            Task::AddNorm { norm, .. } => Weights::Norm(reader.norm(norm)?),
            Task::Round { .. } | Task::Attend { .. } | Task::Pool { .. } | Task::Pick { .. } => Weights::None,
        })
    };
    program.tasks.iter().enumerate().map(load).collect()
}

/// What an op reads, by the plan's ids.
struct Reader<'a> {
    plan: &'a Plan,
    bound: &'a Bound<'a>,
}

impl Reader<'_> {
    fn vector(&self, id: WeightId) -> Result<Vec<f32>, ReadError> {
        let source = self.bound.weight(id);
        let mut values = vec![0.0; source.columns()];
        source.read_row(0, &mut values)?;
        source.done();
        Ok(values)
    }

    fn norm(&self, norm: plan::Norm) -> Result<Norm, ReadError> {
        let plan::Norm { gain, shift, epsilon } = norm;
        Ok(Norm { gain: self.vector(gain)?, shift: self.vector(shift)?, epsilon })
    }

    /// A table to look rows up in, each padded with zeros.
    fn table<W: Number + Plain>(&self, id: WeightId) -> Result<Aligned<W>, ReadError> {
        let source = self.bound.weight(id);
        let stride = source.columns().next_multiple_of(PADDING);
        let mut table = Aligned::<W>::zeroed(source.rows() * stride);
        let mut values = vec![0.0; source.columns()];
        for (row, to) in table.chunks_exact_mut(stride).enumerate() {
            source.read_row(row, &mut values)?;
            to.iter_mut().zip(&values).for_each(|(to, x)| *to = W::rounded(*x));
            if row % ROWS_RELEASED == 0 {
                source.release(row.saturating_sub(ROWS_RELEASED)..row);
            }
        }
        source.done();
        Ok(table)
    }

    /// A product's weight. Queries are made in the unit that attention's softmax takes them in.
    fn matrix<D: Product>(
        &self,
        weight: WeightId,
        bias: Option<WeightId>,
        factors: Option<&[f32]>,
    ) -> Result<Packed<D>, ReadError> {
        let source = self.bound.weight(weight);
        let (queries, scale) = self.queries(weight);
        let mut bias = bias.map(|bias| self.vector(bias)).transpose()?;
        if let Some(bias) = &mut bias {
            bias[..queries].iter_mut().for_each(|x| *x *= scale);
        }
        let packed = Packed::new(source.rows(), source.columns(), bias.as_deref(), |row, to| {
            source.read_row(row, to)?;
            if row < queries {
                to.iter_mut().for_each(|x| *x *= scale);
            }
            if let Some(factors) = factors {
                to.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
            }
            Ok::<(), ReadError>(())
        })?;
        source.done();
        Ok(packed)
    }

    /// What the numbers of a product's input are divided by before they become bytes, and its weights multiplied with.
    ///
    /// One scale has to serve a whole row, so columns with larger numbers leave the others few steps. How large a column
    /// is, its layer norm says: gain and shift. Taking that away from the input puts it on the weights, which have scales
    /// of their own only by output; so a little of it stays (the idea is SmoothQuant's, Xiao et al. 2022, with a norm's own
    /// numbers in place of samples).
    fn evening(&self, weight: WeightId) -> Result<Option<Vec<f32>>, ReadError> {
        let input = self.plan.ops.iter().find_map(|op| match op {
            Op::Gemm { input, weight: of, .. } if *of == weight => Some(*input),
            _ => None,
        });
        let norm = self.plan.ops.iter().find_map(|op| match op {
            Op::Embed { norm, output, .. } | Op::AddNorm { norm, output, .. } if Some(*output) == input => Some(*norm),
            _ => None,
        });
        let Some(norm) = norm else { return Ok(None) };
        let Norm { gain, shift, .. } = self.norm(norm)?;
        let source = self.bound.weight(weight);
        let (mut largest, mut row) = (vec![WEIGHT_MIN; source.columns()], vec![0.0; source.columns()]);
        for index in 0..source.rows() {
            source.read_row(index, &mut row)?;
            largest.iter_mut().zip(&row).for_each(|(largest, x)| *largest = x.abs().max(*largest));
        }
        let sizes = gain.iter().zip(&shift).map(|(gain, shift)| shift.abs() + 3.0 * gain.abs());
        let factor = |(size, largest): (f32, f32)| size.max(WEIGHT_MIN).powf(EVENING) / largest.powf(1.0 - EVENING);
        Ok(Some(sizes.zip(largest).map(factor).collect()))
    }

    /// How many of a product's columns are queries, and what they are multiplied with: the scale of attention, and what
    /// makes powers of e those of 2.
    fn queries(&self, weight: WeightId) -> (usize, f32) {
        let product = self.plan.ops.iter().find(|op| matches!(op, Op::Gemm { weight: of, .. } if *of == weight));
        let attends = |output| {
            self.plan.ops.iter().find_map(|op| match op {
                Op::Attend { qkv, scale, output: out, .. } if *qkv == output => {
                    Some((self.plan[*out].width, scale * LOG2_E))
                }
                _ => None,
            })
        };
        product.and_then(|op| attends(op.output())).unwrap_or((0, 1.0))
    }
}
