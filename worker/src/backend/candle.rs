//! Plans on candle-core, in `f32`: the portable fallback on any processor, and the oracle other executors are held to.
//!
//! A batch is cut into chunks of sequences that run side by side: a chunk's matrices stay in its core's cache, and
//! sequences do not see each other, so chunks need nothing of each other.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use candle_core::{Device, Error, Result as CandleResult, Tensor};
use rayon::prelude::*;

use super::planned::Executor;
use super::planned::calibrate::Observer;
use super::{Compute, LoadError, expect_precision};
use crate::batch::BatchError;
use crate::model::weights::Bound;
use crate::model::{Model, ReadError};
use crate::ops::activate::candle::Activate;
use crate::ops::attend::candle::Attend;
use crate::ops::embed::candle::Embed;
use crate::ops::gate::candle::Gate;
use crate::ops::normalize::candle::{self as normalize, AddNormalize};
use crate::ops::pool::candle::Pool;
use crate::ops::rotate::angles::Tables;
use crate::ops::rotate::candle::Rotate;
use crate::plan::{BufferId, Heads, Mask, Norm, Op, Packed, Plan, Pooling, WeightId};
use crate::source::Precision;

#[cfg(test)]
mod tests;

/// Tokens in a chunk at most, unless one sequence has more: their widest matrix fits a core's cache.
const CHUNK_TOKENS_MAX: usize = 512;
/// Fewer tokens are not worth a chunk: the weights would be read for too little.
const CHUNK_TOKENS_MIN: usize = 64;

/// A plan with its weights, and the threads it runs on.
#[derive(Debug)]
pub(crate) struct Candle {
    steps: Vec<Step>,
    lives: Vec<RangeInclusive<usize>>,
    output: BufferId,
    angles: Tables,
    bytes: u64,
    pool: Arc<rayon::ThreadPool>,
}

/// One op with what it needs.
#[derive(Debug)]
struct Step {
    kernel: Kernel,
    input: Option<BufferId>,
    residual: Option<BufferId>,
    output: BufferId,
}

#[derive(Debug)]
enum Kernel {
    Embed(Embed),
    /// The weight is [K, L]: products with few rows run twice as fast as with one stored [L, K].
    Gemm {
        id: WeightId,
        weight: Tensor,
        activate: Activate,
    },
    Gate(Gate),
    Rotate {
        heads: Heads,
        norms: Option<[normalize::Norm; 2]>,
        base: f32,
    },
    Attend {
        heads: Heads,
        mask: Mask,
        scale: f32,
    },
    AddNorm(AddNormalize),
    Pool(Pooling),
    Pick,
}

impl Executor for Candle {
    fn build(
        model: &Model,
        weights: &Bound<'_>,
        precision: Precision,
        compute: &Compute,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, LoadError> {
        expect_precision("candle", precision, Precision::F32)?;
        let plan = &model.plan;
        let mut reader = Reader { plan, weights, tables: vec![None; plan.weights.len()], bytes: 0 };
        let mut steps = Vec::with_capacity(plan.ops.len());
        for (index, op) in plan.ops.iter().enumerate() {
            progress(index as f32 / plan.ops.len() as f32);
            steps.push(reader.step(op)?);
        }
        let angles = Tables::of(plan.rotations());
        // Of a text as long as a chunk mostly is.
        let bytes = reader.bytes + angles.bytes(CHUNK_TOKENS_MAX.min(model.tokens_max)) as u64;
        Ok(Self { steps, lives: plan.lives(), output: plan.output, angles, bytes, pool: compute.pool()? })
    }

    fn name(&self) -> &'static str {
        "candle"
    }

    fn dtype(&self) -> &'static str {
        Precision::F32.name()
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn run(&mut self, batch: &Packed<'_>, output: &mut Vec<f32>) -> Result<(), BatchError> {
        let parts = self.run_chunks(batch, None)?;
        output.clear();
        parts.iter().for_each(|part| output.extend_from_slice(part));
        Ok(())
    }
}

impl Candle {
    /// Runs a batch to see what its products get.
    pub(super) fn observe(&mut self, batch: &Packed<'_>, observer: &Observer) -> Result<(), BatchError> {
        self.run_chunks(batch, Some(observer)).map(drop)
    }

    /// Rows of the output, chunk by chunk.
    fn run_chunks(&mut self, batch: &Packed<'_>, observer: Option<&Observer>) -> Result<Vec<Vec<f32>>, BatchError> {
        let chunks = chunks(batch.splits, self.pool.current_num_threads());
        let longest = batch.splits.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        self.angles.reserve(longest);
        let run = || chunks.par_iter().map(|chunk| self.run_chunk(batch, chunk, observer)).collect::<CandleResult<_>>();
        self.pool.install(run).map_err(|error| BatchError::Device(error.to_string()))
    }

    /// Some of the packed sequences in, their rows of the output out. An observer is shown the inputs of products.
    fn run_chunk(
        &self,
        batch: &Packed<'_>,
        sequences: &Range<usize>,
        observer: Option<&Observer>,
    ) -> CandleResult<Vec<f32>> {
        let bounds = &batch.splits[sequences.start..=sequences.end];
        let (start, end) = (bounds[0], bounds[bounds.len() - 1]);
        let splits: Vec<usize> = bounds.iter().map(|split| split - start).collect();
        let marks = batch.marks.iter().filter(|mark| (start..end).contains(*mark)).map(|mark| mark - start);
        let marks: Vec<usize> = marks.collect();
        let types = if batch.types.is_empty() { &[] } else { &batch.types[start..end] };
        let chunk = Packed { ids: &batch.ids[start..end], types, splits: &splits, marks: &marks };

        let mut buffers: Vec<Option<Tensor>> = vec![None; self.lives.len()];
        for (index, step) in self.steps.iter().enumerate() {
            let input = step.input.map(|id| self.take(&mut buffers, id, index)).transpose()?;
            // One that is both has been taken already, and must not be changed while it is read.
            let is_both = step.residual.is_some() && step.residual == step.input;
            let residual = match step.residual {
                Some(_) if is_both => input.clone(),
                residual => residual.map(|id| self.take(&mut buffers, id, index)).transpose()?,
            };
            if let (Some(observer), Kernel::Gemm { id, .. }, Some(input)) = (observer, &step.kernel, &input) {
                let rows = input.to_vec2()?;
                rows.iter().enumerate().for_each(|(row, numbers)| observer.note(*id, start + row, numbers));
            }
            let is_last = !is_both && step.input.is_some_and(|id| *self.lives[id.0].end() == index);
            buffers[step.output.0] = Some(step.run(input, is_last, residual, &chunk, &self.angles)?);
        }
        self.take(&mut buffers, self.output, self.steps.len())?.flatten_all()?.to_vec1()
    }

    /// A buffer's matrix for the op at `index`; where that is the last one to read it, nobody else has it then.
    fn take(&self, buffers: &mut [Option<Tensor>], id: BufferId, index: usize) -> CandleResult<Tensor> {
        let buffer = &mut buffers[id.0];
        let taken = if *self.lives[id.0].end() == index { buffer.take() } else { buffer.clone() };
        taken.ok_or_else(|| Error::Msg(format!("buffer {} is not there", id.0)))
    }
}

impl Step {
    /// `is_last` where nobody reads the input after this.
    fn run(
        &self,
        input: Option<Tensor>,
        is_last: bool,
        residual: Option<Tensor>,
        chunk: &Packed<'_>,
        angles: &Tables,
    ) -> CandleResult<Tensor> {
        let input = || input.ok_or_else(|| Error::Msg("an op has no input".to_owned()));
        // To be changed in place.
        let own = |x: Tensor| if is_last { Ok(x) } else { x.copy() };
        match &self.kernel {
            Kernel::Embed(embed) => embed.forward(chunk),
            Kernel::Gemm { weight, activate, .. } => {
                let x = input()?;
                if x.dim(0)? == 0 {
                    return Tensor::zeros((0, weight.dim(1)?), x.dtype(), &Device::Cpu);
                }
                let y = x.matmul(weight)?;
                y.inplace_op1(activate)?;
                residual.map_or(Ok(y.clone()), |residual| y + residual)
            }
            Kernel::Gate(gate) => input()?.apply_op1_no_bwd(gate),
            Kernel::Rotate { heads, norms, base } => {
                let angles = angles.find(heads.width, *base);
                let angles = angles.ok_or_else(|| Error::Msg("a rotation has no angles".to_owned()))?;
                let y = own(input()?)?;
                y.inplace_op1(&Rotate { heads: *heads, norms: norms.as_ref(), angles, splits: chunk.splits })?;
                Ok(y)
            }
            Kernel::Attend { heads, mask, scale } => {
                let attend = Attend { heads: *heads, mask: *mask, scale: *scale, splits: chunk.splits };
                input()?.apply_op1_no_bwd(&attend)
            }
            Kernel::AddNorm(op) => {
                let y = own(input()?)?;
                match residual {
                    Some(residual) => y.inplace_op2(&residual, op)?,
                    None => y.inplace_op1(op)?,
                }
                Ok(y)
            }
            Kernel::Pool(pooling) => input()?.apply_op1_no_bwd(&Pool { pooling: *pooling, splits: chunk.splits }),
            Kernel::Pick => {
                let marks: Vec<u32> = chunk.marks.iter().map(|mark| *mark as u32).collect();
                let count = marks.len();
                input()?.index_select(&Tensor::from_vec(marks, count, &Device::Cpu)?, 0)
            }
        }
    }
}

/// Takes weights out of a checkpoint.
struct Reader<'a> {
    plan: &'a Plan,
    weights: &'a Bound<'a>,
    /// Tables that were read, [rows, H]: one that is multiplied with as well is in memory once.
    tables: Vec<Option<Tensor>>,
    bytes: u64,
}

impl Reader<'_> {
    fn step(&mut self, op: &Op) -> Result<Step, LoadError> {
        let (kernel, input, residual) = match *op {
            Op::Embed { words, positions, types, norm, .. } => {
                let embed = Embed {
                    words: self.table(words)?,
                    positions: positions.map(|positions| self.values(positions)).transpose()?,
                    types: types.map(|types| self.values(types)).transpose()?,
                    norm: norm.map(|norm| self.norm(norm)).transpose()?,
                };
                (Kernel::Embed(embed), None, None)
            }
            Op::Gemm { input, weight, bias, activation, residual, .. } => {
                let (outputs, _) = self.plan[weight].size();
                let bias = bias.map_or_else(|| Ok(vec![0.0; outputs]), |bias| self.values(bias))?;
                let activate = Activate { bias, activation };
                (Kernel::Gemm { id: weight, weight: self.matrix(weight)?, activate }, Some(input), residual)
            }
            Op::Gate { input, activation, .. } => (Kernel::Gate(Gate { activation }), Some(input), None),
            Op::Rotate { qkv, heads, norms, base, .. } => {
                let norms = norms.map(|[queries, keys]| Ok::<_, LoadError>([self.norm(queries)?, self.norm(keys)?]));
                (Kernel::Rotate { heads, norms: norms.transpose()?, base }, Some(qkv), None)
            }
            Op::Attend { qkv, heads, mask, scale, .. } => (Kernel::Attend { heads, mask, scale }, Some(qkv), None),
            Op::AddNorm { input, residual, norm, .. } => {
                (Kernel::AddNorm(AddNormalize { norm: self.norm(norm)? }), Some(input), residual)
            }
            Op::Pool { input, pooling, .. } => (Kernel::Pool(pooling), Some(input), None),
            Op::Pick { input, .. } => (Kernel::Pick, Some(input), None),
        };
        Ok(Step { kernel, input, residual, output: op.output() })
    }

    /// A weight that rows are looked up in, as it is stored.
    fn table(&mut self, id: WeightId) -> Result<Tensor, LoadError> {
        let table = Tensor::from_vec(self.values(id)?, self.plan[id].size(), &Device::Cpu)?;
        self.tables[id.0] = Some(table.clone());
        Ok(table)
    }

    /// A weight to multiply with, [K, L].
    fn matrix(&mut self, id: WeightId) -> Result<Tensor, LoadError> {
        if let Some(table) = &self.tables[id.0] {
            return Ok(table.t()?);
        }
        Ok(Tensor::from_vec(self.values(id)?, self.plan[id].size(), &Device::Cpu)?.t()?.contiguous()?)
    }

    fn norm(&mut self, norm: Norm) -> Result<normalize::Norm, LoadError> {
        let gain = self.values(norm.gain)?;
        let shift = norm.shift.map_or_else(|| Ok(vec![0.0; gain.len()]), |shift| self.values(shift))?;
        Ok(normalize::Norm { kind: norm.kind, gain, shift, epsilon: norm.epsilon })
    }

    fn values(&mut self, id: WeightId) -> Result<Vec<f32>, ReadError> {
        let source = self.weights.weight(id);
        let values = source.read_all()?;
        source.done();
        self.bytes += (values.len() * size_of::<f32>()) as u64;
        Ok(values)
    }
}

/// Ranges of sequences to run side by side: enough for every thread, none too large for a core's cache, and smaller ones
/// last, so that threads end together.
fn chunks(splits: &[usize], threads: usize) -> Vec<Range<usize>> {
    let (sequences, total) = (splits.len() - 1, splits[splits.len() - 1]);
    let mut chunks = Vec::new();
    let mut start = 0;
    while start < sequences {
        let left = total - splits[start];
        let wanted = left.div_ceil(2 * threads).clamp(CHUNK_TOKENS_MIN, CHUNK_TOKENS_MAX);
        let mut end = start + 1;
        while end < sequences && splits[end + 1] - splits[start] <= wanted {
            end += 1;
        }
        chunks.push(start..end);
        start = end;
    }
    chunks
}
