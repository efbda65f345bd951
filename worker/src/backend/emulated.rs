//! Plans as a GPU runs them, on the emulator: bfloat16 in memory, one arena for all buffers, one launch after the other.
//! It is there to hold plans and ops to what a GPU needs. Matrix products, which are cublasLt's there, are the op's
//! reference loop on the same rounded numbers, rounded as cublasLt rounds.

use half::bf16;
use shoal_emulator::{self as emulator, Emulator, Fault};

use super::planned::Executor;
use super::{Compute, LoadError, expect_precision};
use crate::batch::BatchError;
use crate::model::Model;
use crate::model::weights::Bound;
use crate::ops::activate::reference::activate;
use crate::ops::gemm::reference::gemm;
use crate::plan::{Activation, BufferId, Norm, Op, Packed, Plan, Pooling, WeightId};
use crate::source::Precision;

mod arena;
mod reference;
mod tests;

use arena::Arena;

/// A plan with its weights as a GPU would hold them.
#[derive(Debug)]
pub(crate) struct Emulated {
    plan: Plan,
    weights: Vec<Held>,
    emulator: Emulator,
}

/// A weight, row-major as in the checkpoint: tables and matrices alike, so that one that is both is held once.
#[derive(Debug)]
enum Held {
    Bf16(Vec<bf16>),
    /// Gains and shifts of norms, which are small.
    F32(Vec<f32>),
}

/// What kernels need of a batch, made once for all ops.
#[derive(Debug)]
struct DeviceBatch {
    ids: Vec<u32>,
    /// [T]: places in their sequences
    places: Vec<u32>,
    types: Option<Vec<u32>>,
    /// [N + 1]
    splits: Vec<u32>,
    marks: Vec<u32>,
    /// Of attention.
    tiles: Vec<[u32; 3]>,
}

impl Executor for Emulated {
    fn build(
        model: &Model,
        weights: &Bound<'_>,
        precision: Precision,
        _: &Compute,
        _: &mut dyn FnMut(f32),
    ) -> Result<Self, LoadError> {
        expect_precision("emulated", precision, Precision::Bf16)?;
        let plan = model.plan.clone();
        let is_norm = |id| {
            plan.ops.iter().any(|op| match op {
                Op::Embed { norm, .. } | Op::AddNorm { norm, .. } => norm.gain == id || norm.shift == id,
                _ => false,
            })
        };
        let hold = |id| -> Result<Held, LoadError> {
            let values = weights.weight(id).read_all()?;
            Ok(if is_norm(id) { Held::F32(values) } else { Held::Bf16(narrow(&values)) })
        };
        let weights = (0..plan.weights.len()).map(|index| hold(WeightId(index))).collect::<Result<_, _>>()?;
        Ok(Self { plan, weights, emulator: Emulator::new(0) })
    }

    fn name(&self) -> &'static str {
        "emulated"
    }

    fn dtype(&self) -> &'static str {
        Precision::Bf16.name()
    }

    fn bytes(&self) -> u64 {
        let bytes = |held: &Held| match held {
            Held::Bf16(values) => size_of_val(&values[..]),
            Held::F32(values) => size_of_val(&values[..]),
        };
        self.weights.iter().map(bytes).sum::<usize>() as u64
    }

    fn run(&mut self, batch: &Packed<'_>, output: &mut Vec<f32>) -> Result<(), BatchError> {
        self.walk(batch, output, &mut |_, _| {}).map_err(|fault| BatchError::Device(fault.to_string()))
    }
}

impl Emulated {
    /// The same with another order of threads.
    fn with_seed(mut self, seed: u64) -> Self {
        self.emulator = Emulator::new(seed);
        self
    }

    /// Runs all ops; `watch` sees each buffer as soon as it is written.
    fn walk(
        &self,
        batch: &Packed<'_>,
        output: &mut Vec<f32>,
        watch: &mut dyn FnMut(BufferId, &[f32]),
    ) -> Result<(), Fault> {
        let device = DeviceBatch::new(batch);
        let mut arena = Arena::new(&self.plan, batch);
        for op in &self.plan.ops {
            // Nothing to do is no launch: a grid of no blocks is an error.
            if batch.rows(self.plan[op.output()].rows) == 0 {
                continue;
            }
            let is_last = op.output() == self.plan.output;
            let (inputs, to) = arena.buffers(op);
            match op {
                // These write the numbers that are handed out as they have them, unrounded.
                Op::Gemm { .. } if is_last => {
                    *output = self.product(op, inputs[0]).into_iter().map(|x| x as f32).collect();
                }
                Op::Pool { .. } if is_last => {
                    output.clear();
                    output.resize(to.len(), f32::NAN);
                    self.pool(op, inputs[0], &device, emulator::Pooled::F32(output))?;
                }
                _ => {
                    self.launch(op, inputs, &device, to)?;
                    if is_last {
                        *output = widen(to);
                    }
                }
            }
            watch(op.output(), &if is_last { output.clone() } else { widen(to) });
        }
        Ok(())
    }

    /// One op from its inputs to its output, all in bfloat16.
    fn launch(&self, op: &Op, inputs: [&[bf16]; 2], device: &DeviceBatch, output: &mut [bf16]) -> Result<(), Fault> {
        let width = self.plan[op.output()].width;
        match *op {
            Op::Embed { words, positions, types, norm, .. } => {
                let (gain, shift) = self.norm(norm);
                emulator::Embed {
                    ids: &device.ids,
                    places: &device.places,
                    types: device.types.as_deref().filter(|_| types.is_some()),
                    words: self.narrow(words),
                    positions: self.narrow(positions),
                    kinds: types.map(|types| self.narrow(types)),
                    gain,
                    shift,
                    epsilon: norm.epsilon,
                    output,
                }
                .run(&self.emulator)
            }
            Op::Gemm { activation, .. } => {
                for (to, sum) in output.iter_mut().zip(self.product(op, inputs[0])) {
                    *to = bf16::from_f64(sum);
                }
                match after_product(activation) {
                    Some(activation) => {
                        emulator::Activate { matrix: output, bias: None, width, activation }.run(&self.emulator)
                    }
                    None => Ok(()),
                }
            }
            Op::Attend { heads, scale, .. } => {
                let (qkv, tiles) = (inputs[0], &device.tiles);
                emulator::Attend { qkv, tiles, heads, head: width / heads, scale, output }.run(&self.emulator)
            }
            Op::AddNorm { residual, norm, .. } => {
                let (gain, shift) = self.norm(norm);
                let residual = residual.map(|_| inputs[1]);
                let epsilon = norm.epsilon;
                emulator::AddNorm { input: inputs[0], residual, gain, shift, epsilon, output }.run(&self.emulator)
            }
            Op::Pool { .. } => self.pool(op, inputs[0], device, emulator::Pooled::Bf16(output)),
            Op::Pick { .. } => {
                emulator::Pick { input: inputs[0], marks: &device.marks, width, output }.run(&self.emulator)
            }
        }
    }

    fn pool(&self, op: &Op, input: &[bf16], device: &DeviceBatch, output: emulator::Pooled<'_>) -> Result<(), Fault> {
        let Op::Pool { pooling, .. } = *op else { unreachable!("called for Pool") };
        let pooling = match pooling {
            Pooling::Mean => emulator::Pooling::Mean,
            Pooling::Cls => emulator::Pooling::Cls,
            Pooling::Max => emulator::Pooling::Max,
        };
        let width = self.plan[op.output()].width;
        emulator::Pool { input, splits: &device.splits, width, pooling, output }.run(&self.emulator)
    }

    /// What cublasLt computes of a Gemm: all of it, or up to the activation where it has none such.
    fn product(&self, op: &Op, input: &[bf16]) -> Vec<f64> {
        let Op::Gemm { weight, bias, activation, .. } = *op else { unreachable!("called for Gemm") };
        let fused = if after_product(activation).is_none() { activation } else { Activation::Identity };
        let none = vec![0.0; self.plan[weight].size().0];
        let bias = bias.map_or(none, |bias| widen(self.narrow(bias)));
        gemm(&widen(input), &widen(self.narrow(weight)), &bias, |x| activate(x, fused))
    }

    fn norm(&self, norm: Norm) -> (&[f32], &[f32]) {
        (self.wide(norm.gain), self.wide(norm.shift))
    }

    fn narrow(&self, id: WeightId) -> &[bf16] {
        match &self.weights[id.0] {
            Held::Bf16(values) => values,
            Held::F32(_) => unreachable!("a norm's vector is nothing else"),
        }
    }

    fn wide(&self, id: WeightId) -> &[f32] {
        match &self.weights[id.0] {
            Held::F32(values) => values,
            Held::Bf16(_) => unreachable!("found by the same rule"),
        }
    }
}

impl DeviceBatch {
    fn new(batch: &Packed<'_>) -> Self {
        let device = |numbers: &[usize]| numbers.iter().map(|number| *number as u32).collect::<Vec<_>>();
        let splits = device(batch.splits);
        Self {
            ids: batch.ids.to_vec(),
            places: splits.windows(2).flat_map(|pair| 0..pair[1] - pair[0]).collect(),
            types: (!batch.types.is_empty()).then(|| batch.types.to_vec()),
            tiles: emulator::tiles(&splits),
            marks: device(batch.marks),
            splits,
        }
    }
}

/// The activations that cublasLt has no epilogue for; its GELU is the one by tanh.
fn after_product(activation: Activation) -> Option<emulator::Activation> {
    match activation {
        Activation::Identity | Activation::Relu | Activation::GeluTanh => None,
        Activation::Gelu => Some(emulator::Activation::Gelu),
        Activation::Silu => Some(emulator::Activation::Silu),
        Activation::Tanh => Some(emulator::Activation::Tanh),
    }
}

fn narrow(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|value| bf16::from_f32(*value)).collect()
}

fn widen(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}
