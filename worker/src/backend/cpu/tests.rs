//! What the executor plans, without running it; that it computes what transformers does, whatever the instructions; and
//! that a result depends on nothing but its own input.

mod invariance;
mod memory;

use std::num::NonZeroUsize;

use serde_json::json;

use super::*;
use crate::backend::candle::Candle;
use crate::backend::planned::testing::{Row, follows_transformers, numbers, open, run};
use crate::batch::{ItemError, Tensor};
use crate::model::testing::Tiny;

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

/// Of more than one block of keys, in a window that reaches over blocks and in one that does not, and with what is before.
#[test]
fn long_texts_are_as_on_candle_on_any_number_of_threads() {
    let far = |name: &str| Tiny::read(name).set("max_position_embeddings", 2048);
    let models =
        [far("modernbert-embed"), far("modernbert-embed-mean").set("local_attention", 1400), far("qwen3-embed")];
    let rows: Vec<Row> = [1300, 3, 700]
        .map(|length| Row::of(&(0..length).map(|at: i32| (at * 31 + length) % 290).collect::<Vec<_>>()))
        .to_vec();
    for model in models {
        let folder = model.edit("sentence_bert_config.json", |sentence| *sentence = json!({})).write();
        let embeddings = |outcomes: Vec<Result<Vec<Tensor>, ItemError>>| -> Vec<Vec<f32>> {
            outcomes.into_iter().map(|outcome| numbers(&outcome.unwrap(), "embedding")).collect()
        };
        let portable = Compute::new(NonZeroUsize::new(2), CpuIsa::Portable).unwrap();
        let (mut candle, _) = open::<Candle>(folder.path(), Precision::F32, &portable).unwrap();
        let expected = embeddings(run(&mut candle, &rows));
        for (isa, threads) in isas().flat_map(|isa| [1, 5].map(|threads| (isa, threads))) {
            let (mut cpu, _) = open::<Cpu>(folder.path(), Precision::F32, &compute(threads, isa)).unwrap();
            for (found, expected) in embeddings(run(&mut cpu, &rows)).iter().zip(&expected) {
                let off = |(found, expected): (&f32, &f32)| (found - expected).abs();
                let worst = found.iter().zip(expected).map(off).fold(0.0, f32::max);
                let largest = expected.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
                assert!(worst <= 1e-5 * largest, "{isa}, {threads} threads: {worst} of {largest}");
            }
        }
    }
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
