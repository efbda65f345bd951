use super::*;
use crate::cuda::bench::Bench;
use crate::ops::activate::reference;
use crate::ops::emulation::{Numbers, Shapes, close, read};

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

/// Runs the kernels and holds each number to the reference.
fn follows(activation: Activation, shape: (usize, usize), case: Case, seed: u64) {
    Element::ALL.into_iter().for_each(|element| follows_in(element, activation, shape, case, seed));
}

fn follows_in(element: Element, activation: Activation, (rows, width): (usize, usize), case: Case, seed: u64) {
    // Both tails.
    let before = Numbers::wave_of(element, rows * width, 0.5, 6.0);
    let [bias, more] = [(width, 0.9), (rows * width, 0.2)].map(|(count, phase)| Numbers::wave(element, count, phase));
    let mut bench = Bench::new(seed);
    let matrix = before.put(&mut bench);
    let vector = case.has_bias.then(|| bias.put(&mut bench));
    let residual = case.has_residual.then(|| more.put(&mut bench));
    bench
        .run(Activate { rows, width, element, matrix, bias: vector, residual, activation }.command())
        .unwrap_or_else(|fault| panic!("{fault}"));
    let nothing = |count: usize| vec![0.0; count];
    let shifts = if case.has_bias { bias.wide() } else { nothing(width) };
    let more = if case.has_residual { more.wide() } else { nothing(rows * width) };
    let numbers = before.wide().into_iter().zip(more).enumerate();
    let expected: Vec<f64> =
        numbers.map(|(index, (x, more))| reference::activate(x + shifts[index % width], activation) + more).collect();
    let found = read(&bench, element, matrix);
    close(&format!("{activation:?}, {rows} x {width}, {case:?}"), element, &found, &expected, 0.0);
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
