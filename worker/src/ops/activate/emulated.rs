//! The GPU's kernel, on the emulator.

use shoal_emulator::{Activate, Activation as Kernel, Emulator};

use crate::ops::activate::reference;
use crate::ops::emulation::{Bf16s, close};
use crate::plan::Activation;

const ALL: [(Activation, Kernel); 6] = [
    (Activation::Identity, Kernel::Identity),
    (Activation::Gelu, Kernel::Gelu),
    (Activation::GeluTanh, Kernel::GeluTanh),
    (Activation::Silu, Kernel::Silu),
    (Activation::Relu, Kernel::Relu),
    (Activation::Tanh, Kernel::Tanh),
];

#[test]
fn follows_the_reference_for_every_activation_and_rows_of_any_alignment() {
    for (seed, (activation, kernel)) in (0..).zip(ALL) {
        for (rows, width) in [(1, 1), (3, 3), (5, 37), (2, 8), (3, 1024), (2, 1536)] {
            for has_bias in [false, true] {
                // From -6 to 6: both tails.
                let mut matrix = Bf16s::wave(rows * width, 0.5);
                matrix.0.iter_mut().for_each(|x| *x = half::bf16::from_f32(x.to_f32() * 6.0));
                let (before, bias) = (matrix.clone(), Bf16s::wave(width, 0.9));
                let vector = has_bias.then_some(&bias.0[..]);
                Activate { matrix: &mut matrix.0, bias: vector, width, activation: kernel }
                    .run(&Emulator::new(seed))
                    .unwrap();
                let shift = |index: usize| if has_bias { bias.wide()[index % width] } else { 0.0 };
                let expected: Vec<f64> = before
                    .wide()
                    .into_iter()
                    .enumerate()
                    .map(|(index, x)| reference::activate(x + shift(index), activation))
                    .collect();
                close(&format!("{activation:?}, {rows} x {width}, bias {has_bias}"), &matrix.0, &expected, 0.0);
            }
        }
    }
}
