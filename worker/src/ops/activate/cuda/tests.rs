use super::*;
use crate::cuda::bench::Bench;
use crate::ops::activate::reference;
use crate::ops::emulation::{Bf16s, Shapes, close};

/// What is added besides.
#[derive(Clone, Copy, Debug)]
struct Case {
    has_bias: bool,
    has_residual: bool,
}

const CASES: [Case; 3] = [
    Case { has_bias: false, has_residual: false },
    Case { has_bias: true, has_residual: false },
    Case { has_bias: true, has_residual: true },
];

/// Runs the kernel and holds each number to the reference.
fn follows(activation: Activation, (rows, width): (usize, usize), case: Case, seed: u64) {
    // From -6 to 6: both tails.
    let mut before = Bf16s::wave(rows * width, 0.5);
    before.0.iter_mut().for_each(|x| *x = half::bf16::from_f32(x.to_f32() * 6.0));
    let (bias, more) = (Bf16s::wave(width, 0.9), Bf16s::wave(rows * width, 0.2));
    let mut bench = Bench::new(seed);
    let matrix = bench.put(&before.0);
    let vector = case.has_bias.then(|| bench.put(&bias.0));
    let residual = case.has_residual.then(|| bench.put(&more.0));
    bench
        .run(Activate { rows, width, matrix, bias: vector, residual, activation }.command())
        .unwrap_or_else(|fault| panic!("{fault}"));
    let nothing = |count: usize| vec![0.0; count];
    let shifts = if case.has_bias { bias.wide() } else { nothing(width) };
    let more = if case.has_residual { more.wide() } else { nothing(rows * width) };
    let numbers = before.wide().into_iter().zip(more).enumerate();
    let expected: Vec<f64> =
        numbers.map(|(index, (x, more))| reference::activate(x + shifts[index % width], activation) + more).collect();
    close(&format!("{activation:?}, {rows} x {width}, {case:?}"), &bench.read(matrix), &expected, 0.0);
}

#[test]
fn follows_the_reference_for_every_activation_and_rows_of_any_alignment() {
    for (seed, activation) in (0..).zip(Activation::ALL) {
        for shape in [(1, 1), (3, 3), (5, 37), (2, 8), (3, 1024), (2, 1536)] {
            for case in CASES {
                follows(activation, shape, case, seed);
            }
        }
    }
}

#[test]
fn follows_the_reference_at_any_shape_with_every_schedule() {
    for (seed, mut shapes) in Shapes::of_each_schedule() {
        for activation in Activation::ALL {
            let shape = (shapes.up_to(5), shapes.up_to(700));
            follows(activation, shape, CASES[shape.0 % 3], seed);
        }
    }
}
