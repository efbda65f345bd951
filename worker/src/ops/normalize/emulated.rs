//! The GPU's kernel, on the emulator.

use half::bf16;
use shoal_emulator::{AddNorm, Emulator};

use crate::ops::emulation::{Bf16s, close};
use crate::ops::normalize::reference;

#[test]
fn follows_the_reference_for_every_width_class_with_and_without_a_residual() {
    for (seed, width) in [8, 248, 256, 264, 384, 768, 1024, 1032, 2048].into_iter().enumerate() {
        for has_residual in [false, true] {
            let rows = 6;
            let (input, residual) = (Bf16s::wave(rows * width, 1.3), Bf16s::wave(rows * width, 0.4));
            let gain: Vec<f32> = Bf16s::wave(width, 0.3).wide().iter().map(|x| 1.0 + *x as f32 / 4.0).collect();
            let shift: Vec<f32> = Bf16s::wave(width, 0.7).wide().iter().map(|x| *x as f32).collect();
            let mut output = vec![bf16::NAN; rows * width];
            let add_norm = AddNorm {
                input: &input.0,
                residual: has_residual.then_some(&residual.0),
                gain: &gain,
                shift: &shift,
                epsilon: 1e-12,
                output: &mut output,
            };
            add_norm.run(&Emulator::new(seed as u64)).unwrap();
            for (row, found) in output.chunks_exact(width).enumerate() {
                let mut sums = input.row(row as u32, width);
                if has_residual {
                    sums.iter_mut().zip(residual.row(row as u32, width)).for_each(|(sum, other)| *sum += other);
                }
                let expected = reference::normalize(&sums, &gain, &shift, 1e-12);
                close(&format!("width {width}, residual {has_residual}, row {row}"), found, &expected, 0.0);
            }
        }
    }
}

#[test]
fn widths_that_no_kernel_takes_are_refused_by_name() {
    for width in [12, 2056] {
        let (input, vector, mut output) = (vec![bf16::ONE; width], vec![1.0; width], vec![bf16::NAN; width]);
        let (gain, shift) = (&vector[..], &vector[..]);
        let add_norm = AddNorm { input: &input, residual: None, gain, shift, epsilon: 1e-5, output: &mut output };
        let fault = add_norm.run(&Emulator::new(0)).unwrap_err();
        assert_eq!(fault.to_string(), format!("there is no kernel for rows of {width}"));
    }
}
