use half::bf16;

use super::*;
use crate::cuda::bench::Bench;
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
            let mut bench = Bench::new(seed as u64);
            let add_norm = AddNorm {
                rows,
                width,
                input: bench.put(&input.0),
                residual: has_residual.then(|| bench.put(&residual.0)),
                gain: bench.put(&gain),
                shift: bench.put(&shift),
                epsilon: 1e-12,
                output: bench.room::<bf16>(rows * width),
            };
            bench.run(add_norm.command()).unwrap();
            for (row, found) in bench.read::<bf16>(add_norm.output).chunks_exact(width).enumerate() {
                let mut sums = input.row(row as u32, width);
                if has_residual {
                    sums.iter_mut().zip(residual.row(row as u32, width)).for_each(|(sum, other)| *sum += other);
                }
                let expected = reference::normalize(crate::plan::NormKind::Layer, &sums, &gain, &shift, 1e-12);
                close(&format!("width {width}, residual {has_residual}, row {row}"), found, &expected, 0.0);
            }
        }
    }
}

#[test]
fn there_is_a_kernel_for_multiples_of_8_up_to_2048() {
    assert!([8, 256, 2048].into_iter().all(|width| AddNorm::kernel(width).is_some()));
    assert!([0, 12, 2056].into_iter().all(|width| AddNorm::kernel(width).is_none()));
}
