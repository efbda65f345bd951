use candle_core::{Device, Tensor};

use super::*;
use crate::ops::gate::reference::gate;

#[test]
fn gates_as_the_reference_does_in_rows_of_any_width() {
    for (rows, width) in [(1, 1), (3, 7), (40, 33), (300, 512)] {
        let x: Vec<f32> = (0..rows * 2 * width).map(|index| (index as f32 * 0.37).sin() * 3.0).collect();
        for activation in Activation::ALL {
            let tensor = Tensor::from_slice(&x, (rows, 2 * width), &Device::Cpu).unwrap();
            let found = tensor.apply_op1_no_bwd(&Gate { activation }).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!((found.len(), found[0].len()), (rows, width));
            for (found, x) in found.iter().zip(x.chunks_exact(2 * width)) {
                let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                for (found, expected) in found.iter().zip(gate(&wide, activation)) {
                    assert!((f64::from(*found) - expected).abs() < 4e-6, "{activation:?}: {found}, not {expected}");
                }
            }
        }
    }
}

#[test]
fn refuses_rows_without_halves() {
    let x = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    let error = x.apply_op1_no_bwd(&Gate { activation: Activation::Silu }).unwrap_err();
    assert!(error.to_string().contains("rows of 3 have no halves"), "{error}");
}
