use candle_core::{Device, Tensor};

use super::*;

fn pool(pooling: Pooling, splits: &[usize]) -> Vec<Vec<f32>> {
    let x: Vec<f32> = vec![1.0, -2.0, 3.0, -4.0, 5.0, 0.5];
    let x = Tensor::from_vec(x, (3, 2), &Device::Cpu).unwrap();
    x.apply_op1_no_bwd(&Pool { pooling, splits }).unwrap().to_vec2().unwrap()
}

#[test]
fn pools_each_sequence_by_itself() {
    assert_eq!(pool(Pooling::Mean, &[0, 2, 3]), [[2.0, -3.0], [5.0, 0.5]]);
    assert_eq!(pool(Pooling::Cls, &[0, 2, 3]), [[1.0, -2.0], [5.0, 0.5]]);
    assert_eq!(pool(Pooling::Max, &[0, 2, 3]), [[3.0, -2.0], [5.0, 0.5]]);
    assert_eq!(pool(Pooling::Last, &[0, 2, 3]), [[3.0, -4.0], [5.0, 0.5]]);
    assert_eq!(pool(Pooling::Max, &[0, 3]), [[5.0, 0.5]]);
}
