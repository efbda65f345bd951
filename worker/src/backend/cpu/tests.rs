//! What the executor plans, without running it; and that it computes what transformers does, whatever the instructions.

mod memory;

use std::num::NonZeroUsize;

use super::*;
use crate::backend::planned::testing::{Row, follows_transformers, numbers, open, run};
use crate::model::testing::fixtures;

fn compute(threads: usize, isa: CpuIsa) -> Compute {
    Compute::new(NonZeroUsize::new(threads), isa).unwrap()
}

/// The instructions of this processor that the executor has kernels for.
fn isas() -> impl Iterator<Item = CpuIsa> {
    let best = CpuIsa::detect();
    if best < CpuIsa::Avx512Narrow {
        eprintln!("skipped: everything beyond {best}, which this processor lacks");
    }
    CpuIsa::ALL.into_iter().filter(move |isa| *isa > CpuIsa::Portable && *isa <= best)
}

#[test]
fn follows_transformers_for_every_architecture_and_head() {
    for isa in isas() {
        follows_transformers::<Cpu>(Precision::F32, 1e-5, &compute(3, isa));
    }
}
