use candle_core::{Device, Tensor};

use super::*;
use crate::ops::normalize::reference;

#[test]
fn follows_the_reference_for_any_width() {
    let sizes = [(1, 1), (3, 16), (5, 37), (400, 384)];
    for (kind, (rows, width)) in
        [NormKind::Layer, NormKind::Rms].into_iter().flat_map(|kind| sizes.map(|size| (kind, size)))
    {
        let wave = |scale: f32, len: usize| (0..len).map(|index| (index as f32 * scale).sin()).collect::<Vec<f32>>();
        let (x, residual) = (wave(0.7, rows * width), wave(1.3, rows * width));
        let norm = Norm { kind, gain: wave(0.11, width), shift: wave(0.13, width), epsilon: 1e-12 };
        let op = AddNormalize { norm };
        let tensor = Tensor::from_vec(x.clone(), (rows, width), &Device::Cpu).unwrap();
        let other = Tensor::from_vec(residual.clone(), (rows, width), &Device::Cpu).unwrap();
        tensor.inplace_op2(&other, &op).unwrap();
        let found = tensor.to_vec2::<f32>().unwrap();
        for (row, found) in found.iter().enumerate() {
            let range = row * width..(row + 1) * width;
            let pairs = x[range.clone()].iter().zip(&residual[range]);
            let sums: Vec<f64> = pairs.map(|(x, residual)| f64::from(*x) + f64::from(*residual)).collect();
            let expected = reference::normalize(kind, &sums, &op.norm.gain, &op.norm.shift, 1e-12);
            for (found, expected) in found.iter().zip(expected) {
                // A row of one number has no variance: what is left is the shift.
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-4,
                    "{kind:?} {rows}x{width}: {found}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn refuses_a_residual_of_another_shape() {
    let norm = Norm { kind: NormKind::Layer, gain: vec![1.0; 3], shift: vec![0.0; 3], epsilon: 1e-12 };
    let op = AddNormalize { norm };
    let x = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    let residual = Tensor::zeros((1, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    let error = x.inplace_op2(&residual, &op).unwrap_err();
    assert!(error.to_string().contains("the residual [1, 3]"), "{error}");
}

#[test]
fn normalises_alone_as_with_a_residual_of_zeros() {
    let norm = Norm { kind: NormKind::Layer, gain: vec![1.0, 2.0, -1.0], shift: vec![0.5; 3], epsilon: 1e-12 };
    let op = AddNormalize { norm };
    let make = || Tensor::new(&[[1f32, 2.0, 4.0], [-3.0, 0.0, 0.5]], &Device::Cpu).unwrap();
    let (alone, with) = (make(), make());
    alone.inplace_op1(&op).unwrap();
    with.inplace_op2(&alone.zeros_like().unwrap(), &op).unwrap();
    assert_eq!(alone.to_vec2::<f32>().unwrap(), with.to_vec2::<f32>().unwrap());
}
