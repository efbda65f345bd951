//! The executor for this machine: our own kernels where the processor has the instructions for them, else candle.

use super::candle::Candle;
#[cfg(target_arch = "x86_64")]
use super::cpu::Cpu;
use super::planned::Executor;
use super::{Compute, LoadError};
use crate::batch::BatchError;
#[cfg(target_arch = "x86_64")]
use crate::cpu::isa::CpuIsa;
use crate::model::Model;
use crate::model::weights::Bound;
use crate::plan::Packed;
use crate::source::Precision;

/// A model on whichever executor suits the instructions it computes with.
#[derive(Debug)]
pub(crate) enum Engine {
    Candle(Candle),
    #[cfg(target_arch = "x86_64")]
    Cpu(Box<Cpu>),
}

impl Executor for Engine {
    fn build(
        model: &Model,
        weights: &Bound<'_>,
        precision: Precision,
        compute: &Compute,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, LoadError> {
        #[cfg(target_arch = "x86_64")]
        if compute.isa > CpuIsa::Portable {
            return Cpu::build(model, weights, precision, compute, progress).map(|cpu| Self::Cpu(Box::new(cpu)));
        }
        Candle::build(model, weights, precision, compute, progress).map(Self::Candle)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Candle(candle) => candle.name(),
            #[cfg(target_arch = "x86_64")]
            Self::Cpu(cpu) => cpu.name(),
        }
    }

    fn instructions(&self) -> &'static str {
        match self {
            Self::Candle(candle) => candle.instructions(),
            #[cfg(target_arch = "x86_64")]
            Self::Cpu(cpu) => cpu.instructions(),
        }
    }

    fn dtype(&self) -> &'static str {
        match self {
            Self::Candle(candle) => candle.dtype(),
            #[cfg(target_arch = "x86_64")]
            Self::Cpu(cpu) => cpu.dtype(),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Candle(candle) => candle.bytes(),
            #[cfg(target_arch = "x86_64")]
            Self::Cpu(cpu) => cpu.bytes(),
        }
    }

    fn run(&mut self, batch: &Packed<'_>, output: &mut Vec<f32>) -> Result<(), BatchError> {
        match self {
            Self::Candle(candle) => candle.run(batch, output),
            #[cfg(target_arch = "x86_64")]
            Self::Cpu(cpu) => cpu.run(batch, output),
        }
    }
}
