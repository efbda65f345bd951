//! Plans by our own kernels, on processors with AVX2 or better: weights packed once in the type they are multiplied in,
//! all threads on every batch, nothing allocated for one.
//!
//! A sequence's result is the same bits alone, in any batch, in any order and on any number of threads: every sum runs
//! over one token's own numbers in one order, whatever is computed beside it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::planned::Executor;
use super::planned::calibrate::{MIXED_LOSS_MAX, Observer, sample};
use super::{Compute, LoadError};
use crate::batch::BatchError;
use crate::cpu::avx2::Avx2;
use crate::cpu::avx512::Avx512;
use crate::cpu::dot::{Bf16, F32};
use crate::cpu::isa::CpuIsa;
use crate::cpu::pace::bf16_is_quicker;
use crate::cpu::team::Team;
use crate::model::Model;
use crate::model::weights::Bound;
use crate::plan::Packed;
use crate::source::Precision;

mod arena;
pub(super) mod calibrate;
mod load;
mod net;
mod program;
mod run;
mod schedule;
#[cfg(test)]
mod tests;

use net::{Kind, Net};
use program::{Multiply, Operands, Program};

/// What there are kernels for.
const OFFERED: &str = "f32, bf16 and int8";

/// Memory for batches at most: some hundred times what small encoders take, so that no settings file ends a worker.
const ARENA_BYTES_MAX: usize = 4 << 30;

/// A model for one kind of processor and precision.
#[derive(Debug)]
pub(crate) struct Cpu {
    net: AnyNet,
    precision: Precision,
    team: Arc<Mutex<Team>>,
}

#[derive(Debug)]
enum AnyNet {
    Avx2(Net<F32<Avx2>>),
    Avx512(Net<F32<Avx512>>),
    Narrow(Net<Bf16>),
}

impl Executor for Cpu {
    fn build(
        model: &Model,
        weights: &Bound<'_>,
        precision: Precision,
        compute: &Compute,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, LoadError> {
        // SAFETY: it is asked only of a processor that has them, which `resolve` says and `Compute` sees to.
        let is_quicker = || unsafe { bf16_is_quicker() };
        let precision = resolve(precision, compute.isa, is_quicker)?;
        let build = Build { model, weights, threads: compute.threads() };
        let net = match (precision, compute.isa) {
            (Precision::F32, CpuIsa::Avx2) => AnyNet::Avx2(build.net(Operands::F32, progress)?),
            (Precision::F32, _) => AnyNet::Avx512(build.net(Operands::F32, progress)?),
            (Precision::Int8, _) => AnyNet::Narrow(build.quantised(&compute.team, f32::INFINITY, progress)?),
            (Precision::Int8Mixed, _) => AnyNet::Narrow(build.quantised(&compute.team, MIXED_LOSS_MAX, progress)?),
            (Precision::Bf16 | Precision::Auto | Precision::F16, _) => {
                AnyNet::Narrow(build.net(Operands::Bf16, progress)?)
            }
        };
        Ok(Self { net, precision, team: compute.team.clone() })
    }

    fn name(&self) -> &'static str {
        "cpu"
    }

    fn instructions(&self) -> &'static str {
        let isa = match &self.net {
            AnyNet::Avx2(_) => CpuIsa::Avx2,
            AnyNet::Avx512(_) => CpuIsa::Avx512,
            AnyNet::Narrow(_) => CpuIsa::Avx512Narrow,
        };
        isa.name()
    }

    fn dtype(&self) -> &'static str {
        self.precision.name()
    }

    fn bytes(&self) -> u64 {
        let bytes = match &self.net {
            AnyNet::Avx2(net) => net.bytes(),
            AnyNet::Avx512(net) => net.bytes(),
            AnyNet::Narrow(net) => net.bytes(),
        };
        bytes as u64
    }

    fn run(&mut self, batch: &Packed<'_>, output: &mut Vec<f32>) -> Result<(), BatchError> {
        let mut team = lock(&self.team);
        match &mut self.net {
            AnyNet::Avx2(net) => net.run(&mut team, batch, output, None),
            AnyNet::Avx512(net) => net.run(&mut team, batch, output, None),
            AnyNet::Narrow(net) => net.run(&mut team, batch, output, None),
        }
    }
}

/// Takes the team for as long as a batch takes. A panic in a kernel left it as it was.
fn lock(team: &Mutex<Team>) -> MutexGuard<'_, Team> {
    team.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The precision to compute in: where none is asked for, the fastest without visible loss. What `is_bf16_quicker` says is
/// only asked where there are instructions for it.
fn resolve(wanted: Precision, isa: CpuIsa, is_bf16_quicker: impl FnOnce() -> bool) -> Result<Precision, LoadError> {
    match wanted {
        Precision::F16 => Err(LoadError::Precision { backend: "cpu", wanted: wanted.name(), offered: OFFERED }),
        _ if isa == CpuIsa::Portable => Err(LoadError::Instructions { wanted: wanted.name(), isa: isa.name() }),
        Precision::Auto if isa >= CpuIsa::Avx512Narrow && is_bf16_quicker() => Ok(Precision::Bf16),
        Precision::Auto | Precision::F32 => Ok(Precision::F32),
        _ if isa >= CpuIsa::Avx512Narrow => Ok(wanted),
        _ => Err(LoadError::Instructions { wanted: wanted.name(), isa: isa.name() }),
    }
}

/// What a net is built from.
struct Build<'a> {
    model: &'a Model,
    weights: &'a Bound<'a>,
    threads: usize,
}

impl Build<'_> {
    fn net<D: Kind>(&self, operands: Operands, progress: &mut dyn FnMut(f32)) -> Result<Net<D>, LoadError> {
        let program = Program::new(&self.model.plan, operands, |_| Multiply::Operands);
        let bytes = net::arena_bytes(&program, self.threads);
        if bytes > ARENA_BYTES_MAX {
            return Err(LoadError::Memory { bytes, max: ARENA_BYTES_MAX });
        }
        let weights = load::load(&self.model.plan, &program, self.weights, progress)?;
        Ok(Net::new(program, weights, self.threads))
    }

    /// A net in which products over tokens are of bytes, those that lose no more than `loss_max`.
    fn quantised(
        &self,
        team: &Mutex<Team>,
        loss_max: f32,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Net<Bf16>, LoadError> {
        let plan = &self.model.plan;
        let mut net: Net<Bf16> = self.net(Operands::Bf16, progress)?;
        let (ids, splits) = sample(self.model.vocabulary, self.model.tokens_max, self.model.sequence_ends());
        let packed = Packed { ids: &ids, types: &[], splits: &splits, marks: &[] };
        let observer = Observer::default();
        // Others run batches between these.
        net.run(&mut lock(team), &packed, &mut Vec::new(), Some(&observer)).map_err(LoadError::Sample)?;
        let mut choices = calibrate::choose_all(plan, self.weights, &observer.seen(), || lock(team))?;
        choices.retain(|_, choice| choice.loss <= loss_max);
        let multiply = |weight| if choices.contains_key(&weight) { Multiply::Int8 } else { Multiply::Operands };
        let program = Program::new(plan, Operands::Bf16, multiply);
        let weights = load::quantise(plan, &program, self.weights, net.into_weights(), &choices)?;
        Ok(Net::new(program, weights, self.threads))
    }
}
