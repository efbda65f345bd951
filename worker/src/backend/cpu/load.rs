//! A program's weights, from a checkpoint into the form that kernels read them in.

use std::collections::BTreeMap;
use std::f32::consts::LOG2_E;

use super::calibrate::inverse;
use super::net::{Kind, Norm, Weights};
use super::program::{Program, Task};
use crate::backend::planned::calibrate::{self, Choice};
use crate::cpu::memory::{Aligned, PADDING, Plain};
use crate::cpu::simd::Number;
use crate::model::ReadError;
use crate::model::weights::Bound;
use crate::ops::gemm::pack::{Packed, Product};
use crate::plan::{self, Op, Plan, WeightId};

/// Rows of a table after which their pages are given back.
const ROWS_RELEASED: usize = 1024;

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
                let width = plan[words].size().1;
                let words = reader.table(words)?;
                let positions = positions.map(|positions| reader.table(positions)).transpose()?;
                let types = types.map(|types| reader.table(types)).transpose()?;
                Weights::Embed { width, words, positions, types, norm: norm.map(|norm| reader.norm(norm)).transpose()? }
            }
            Task::Rotate { norms: Some([queries, keys]), scale, .. } => {
                // It is what queries are made by last.
                let mut queries = reader.norm(queries)?;
                queries.gain.iter_mut().chain(&mut queries.shift).for_each(|x| *x *= scale);
                Weights::Rotate([queries, reader.norm(keys)?])
            }
            Task::Gemm { weight, bias, .. } => Weights::Gemm(reader.matrix(weight, bias, None)?),
            Task::AddNorm { norm, .. } => Weights::Norm(reader.norm(norm)?),
            Task::Quantise { .. }
            | Task::Round { .. }
            | Task::Gate { .. }
            | Task::Rotate { norms: None, .. }
            | Task::Attend { .. }
            | Task::Pool { .. }
            | Task::Pick { .. } => Weights::None,
        })
    };
    program.tasks.iter().enumerate().map(load).collect()
}

/// Turns the weights of a program into those of the same plan's in which some products are of bytes, as chosen. What stays
/// as it is, is taken over.
pub(super) fn quantise<D: Kind>(
    plan: &Plan,
    program: &Program,
    bound: &Bound<'_>,
    weights: Vec<Weights<D>>,
    choices: &BTreeMap<WeightId, Choice>,
) -> Result<Vec<Weights<D>>, ReadError> {
    let reader = Reader { plan, bound };
    // Both programs have the tasks that read weights in the same order.
    let mut weights = weights.into_iter().filter(|weights| !matches!(weights, Weights::None));
    let factors = |weight: &WeightId| choices.get(weight).and_then(|choice| choice.factors.as_deref());
    let quantise = |task: &Task| {
        Ok(match task {
            Task::Quantise { weight, .. } => Weights::Quantise(factors(weight).map(inverse)),
            Task::Gemm { weight, bias, range: Some(_), .. } => {
                drop(weights.next());
                Weights::GemmInt8(reader.matrix(*weight, *bias, factors(weight))?)
            }
            Task::Embed { .. } | Task::Gemm { .. } | Task::Rotate { norms: Some(_), .. } | Task::AddNorm { .. } => {
                weights.next().unwrap_or(Weights::None)
            }
            Task::Round { .. }
            | Task::Gate { .. }
            | Task::Rotate { .. }
            | Task::Attend { .. }
            | Task::Pool { .. }
            | Task::Pick { .. } => Weights::None,
        })
    };
    program.tasks.iter().map(quantise).collect()
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
        let gain = self.vector(norm.gain)?;
        let shift = norm.shift.map_or_else(|| Ok(vec![0.0; gain.len()]), |shift| self.vector(shift))?;
        Ok(Norm { kind: norm.kind, gain, shift, epsilon: norm.epsilon })
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
            factors.into_iter().for_each(|factors| calibrate::scale(to, factors));
            Ok::<(), ReadError>(())
        })?;
        source.done();
        Ok(packed)
    }

    /// How many of a product's columns are queries, and what they are multiplied with: the scale of attention, and what
    /// makes powers of e those of 2. Queries that are normalised after the product are scaled by their norm.
    fn queries(&self, weight: WeightId) -> (usize, f32) {
        let ops = &self.plan.ops;
        let product = ops.iter().find(|op| matches!(op, Op::Gemm { weight: of, .. } if *of == weight));
        let turned = |output| {
            let turns = ops.iter().find_map(|op| match op {
                Op::Rotate { qkv, norms, output: turned, .. } if *qkv == output => Some((*turned, norms.is_none())),
                _ => None,
            });
            turns.unwrap_or((output, true))
        };
        let attends = |output| match turned(output) {
            (qkv, true) => self.plan.attention_over(qkv),
            (_, false) => None,
        };
        let queries = product.and_then(|op| attends(op.output()));
        queries.map_or((0, 1.0), |(heads, scale)| (heads.queries(), scale * LOG2_E))
    }
}
