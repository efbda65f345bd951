use super::*;
use crate::cuda::bench::Bench;
use crate::ops::activate::reference;
use crate::ops::emulation::{Bf16s, close};

#[test]
fn follows_the_reference_for_every_activation_and_rows_of_any_alignment() {
    for (seed, activation) in (0..).zip(Activation::ALL) {
        for (rows, width) in [(1, 1), (3, 3), (5, 37), (2, 8), (3, 1024), (2, 1536)] {
            for (has_bias, has_residual) in [(false, false), (true, false), (true, true)] {
                // From -6 to 6: both tails.
                let mut before = Bf16s::wave(rows * width, 0.5);
                before.0.iter_mut().for_each(|x| *x = half::bf16::from_f32(x.to_f32() * 6.0));
                let (bias, more) = (Bf16s::wave(width, 0.9), Bf16s::wave(rows * width, 0.2));
                let mut bench = Bench::new(seed);
                let matrix = bench.put(&before.0);
                let vector = has_bias.then(|| bench.put(&bias.0));
                let residual = has_residual.then(|| bench.put(&more.0));
                bench.run(Activate { rows, width, matrix, bias: vector, residual, activation }.command()).unwrap();
                let shift = |index: usize| if has_bias { bias.wide()[index % width] } else { 0.0 };
                let expected: Vec<f64> = before
                    .wide()
                    .into_iter()
                    .enumerate()
                    .map(|(index, x)| reference::activate(x + shift(index), activation))
                    .zip(more.wide())
                    .map(|(x, more)| if has_residual { x + more } else { x })
                    .collect();
                close(
                    &format!("{activation:?}, {rows} x {width}, bias {has_bias}, residual {has_residual}"),
                    &bench.read(matrix),
                    &expected,
                    0.0,
                );
            }
        }
    }
}
