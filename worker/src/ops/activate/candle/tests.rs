use candle_core::{Device, Tensor};

use super::*;
use crate::ops::activate::reference;

#[test]
fn follows_the_reference_for_every_activation() {
    // More rows than one block, so that the threads' seams are in it.
    let (rows, width) = (3000, 37);
    let x: Vec<f32> = (0..rows * width).map(|index| (index as f32 * 0.7).sin() * 6.0).collect();
    let bias: Vec<f32> = (0..width).map(|index| index as f32 * 0.05 - 1.0).collect();
    for activation in Activation::ALL {
        let tensor = Tensor::from_vec(x.clone(), (rows, width), &Device::Cpu).unwrap();
        tensor.inplace_op1(&Activate { bias: bias.clone(), activation }).unwrap();
        let found = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (index, (found, x)) in found.iter().zip(&x).enumerate() {
            let expected = reference::activate(f64::from(x + bias[index % width]), activation);
            let error = (f64::from(*found) - expected).abs();
            assert!(error < 2e-6, "{activation:?} at {index}: {found}, not {expected}");
        }
    }
}

#[test]
fn refuses_a_bias_of_another_width() {
    let tensor = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    let error = tensor.inplace_op1(&Activate { bias: vec![0.0; 4], activation: Activation::Relu }).unwrap_err();
    assert!(error.to_string().contains("the bias is 4 long, not 3"), "{error}");
}
