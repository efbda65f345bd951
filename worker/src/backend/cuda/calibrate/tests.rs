use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::backend::cpu::calibrate::Trial as OnCpu;
use crate::cpu::isa::CpuIsa;

const INPUTS: usize = 72;
const OUTPUTS: usize = 40;

/// A weight, and inputs of which every ninth column is `outlier` times as large as the others, which the weight makes up for.
fn product(outlier: f32) -> (Vec<f32>, Seen) {
    let mut random = StdRng::seed_from_u64(5);
    let by = |column: usize| if column.is_multiple_of(9) { outlier } else { 1.0 };
    let weight = (0..OUTPUTS * INPUTS).map(|at| random.random_range(-0.3..0.3) / by(at % INPUTS)).collect();
    let observer = Observer::default();
    let id = WeightId(0);
    for row in 0..90 {
        let numbers: Vec<f32> = (0..INPUTS).map(|column| by(column) * random.random_range(-1.0..1.0)).collect();
        observer.note(id, row, &numbers);
    }
    (weight, observer.seen().remove(&id).expect("rows were noted"))
}

#[test]
fn what_is_lost_is_what_the_cpus_kernels_lose() {
    if CpuIsa::detect() < CpuIsa::Avx512Narrow {
        return eprintln!("skipped: no instructions for int8");
    }
    for outlier in [1.0, 30.0] {
        let (weight, seen) = product(outlier);
        let (portable, cpu) = (Trial::new(&weight, &seen).unwrap(), OnCpu::new(&weight, &seen));
        let even = vec![1.7; INPUTS];
        for factors in [None, Some(&even[..]), Some(&seen.largest[..])] {
            let (found, expected) = (portable.loss(factors).unwrap(), cpu.loss(factors));
            // The CPU compares with a product in bfloat16, which loses something of its own.
            assert!((found - expected).abs() <= 0.05 * expected + 6e-6, "outlier {outlier}: {found}, not {expected}");
        }
        let [found, expected] = [
            choose(&weight, &seen, |factors| portable.loss(factors)).unwrap(),
            choose(&weight, &seen, |factors| Ok::<_, LoadError>(cpu.loss(factors))).unwrap(),
        ];
        assert_eq!(found.factors, expected.factors, "outlier {outlier}");
    }
}

#[test]
fn columns_that_are_far_larger_are_moved_to_the_weights() {
    let (weight, seen) = product(30.0);
    let trial = Trial::new(&weight, &seen).unwrap();
    let choice = choose(&weight, &seen, |factors| trial.loss(factors)).unwrap();
    assert!(choice.factors.is_some() && choice.loss < trial.loss(None).unwrap() / 4.0, "{choice:?}");
}

#[test]
fn what_is_no_number_loses_everything() {
    let (weight, mut seen) = product(1.0);
    seen.rows.get_mut(&3).unwrap()[4] = f32::NAN;
    let trial = Trial::new(&weight, &seen).unwrap();
    let choice = choose(&weight, &seen, |factors| trial.loss(factors)).unwrap();
    assert_eq!(choice, Choice { factors: None, loss: f32::INFINITY });
}
