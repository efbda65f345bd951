//! What the executor plans, without running it; that it computes what transformers does, whatever the instructions; and
//! that a result depends on nothing but its own input.

mod invariance;
mod memory;

use std::num::NonZeroUsize;

use super::*;
use crate::backend::planned::testing::follows_transformers;

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

#[test]
fn narrow_numbers_follow_transformers_as_far_as_they_reach() {
    if CpuIsa::detect() < CpuIsa::Avx512Narrow {
        return eprintln!("skipped: no instructions for bf16 and int8");
    }
    let compute = compute(2, CpuIsa::Avx512Narrow);
    // Random weights are harder than learnt ones: nothing in them is redundant.
    follows_transformers::<Cpu>(Precision::Bf16, 0.15, &compute);
    follows_transformers::<Cpu>(Precision::Int8, 0.6, &compute);
}

#[test]
fn refuses_a_precision_that_the_instructions_lack() {
    let says = |wanted, isa| resolve(wanted, isa, || true).unwrap_err().to_string();
    assert_eq!(
        says(Precision::Bf16, CpuIsa::Avx512),
        "dtype bf16 needs AVX-512 with BF16 and VNNI, and this worker computes with avx512: use f32"
    );
    assert!(says(Precision::Int8, CpuIsa::Avx2).contains("avx2"));
    let never = || unreachable!("there are no instructions for it");
    assert_eq!(resolve(Precision::Auto, CpuIsa::Avx2, never).unwrap(), Precision::F32);
    for (is_quicker, expected) in [(true, Precision::Bf16), (false, Precision::F32)] {
        assert_eq!(resolve(Precision::Auto, CpuIsa::Avx512Narrow, || is_quicker).unwrap(), expected);
        // What was asked for is what is done, however slow.
        assert_eq!(resolve(Precision::Bf16, CpuIsa::Avx512Narrow, || is_quicker).unwrap(), Precision::Bf16);
    }
}
