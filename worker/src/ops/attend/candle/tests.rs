use candle_core::{Device, Tensor};

use super::*;

/// The specification, in double precision: one sequence, one head, one query.
fn reference(
    qkv: &[f32],
    width: usize,
    (start, end): (usize, usize),
    query: usize,
    at: usize,
    head: usize,
) -> Vec<f64> {
    let value = |token: usize, part: usize, dim: usize| f64::from(qkv[token * 3 * width + part * width + at + dim]);
    let score =
        |key: usize| (0..head).map(|dim| value(query, 0, dim) * value(key, 1, dim)).sum::<f64>() / (head as f64).sqrt();
    let weights: Vec<f64> = (start..end).map(|key| score(key).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mix = |dim| (start..end).zip(&weights).map(|(key, weight)| weight / sum * value(key, 2, dim)).sum();
    (0..head).map(mix).collect()
}

fn wave(len: usize) -> Vec<f32> {
    (0..len).map(|index| (index as f32 * 0.37).sin() * 2.0).collect()
}

fn attend(qkv: &[f32], width: usize, heads: usize, splits: &[usize]) -> Vec<f32> {
    let scale = 1.0 / ((width / heads) as f32).sqrt();
    let tensor = Tensor::from_vec(qkv.to_vec(), (qkv.len() / 3 / width, 3 * width), &Device::Cpu).unwrap();
    let out = tensor.apply_op1_no_bwd(&Attend { heads, scale, splits }).unwrap();
    out.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn follows_the_reference_for_mixed_lengths_and_head_sizes() {
    for (heads, head) in [(1, 8), (3, 5), (2, 32), (2, 64)] {
        let (width, splits) = (heads * head, [0, 1, 18, 18, 150, 160]);
        let qkv = wave(160 * 3 * width);
        let found = attend(&qkv, width, heads, &splits);
        for pair in splits.windows(2) {
            for query in pair[0]..pair[1] {
                for at in (0..width).step_by(head) {
                    let expected = reference(&qkv, width, (pair[0], pair[1]), query, at, head);
                    for (dim, expected) in expected.iter().enumerate() {
                        let found = f64::from(found[query * width + at + dim]);
                        assert!((found - expected).abs() < 1e-5, "{heads}x{head} query {query}: {found}, {expected}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_sequence_does_not_see_its_mates() {
    let width = 64;
    let qkv = wave(100 * 3 * width);
    let mixed = attend(&qkv, width, 2, &[0, 70, 77, 100]);
    let alone = attend(&qkv[70 * 3 * width..77 * 3 * width], width, 2, &[0, 7]);
    assert_eq!(mixed[70 * width..77 * width], alone);
}

#[test]
fn survives_scores_far_apart() {
    let mut qkv = wave(20 * 3 * 8);
    qkv.iter_mut().for_each(|x| *x *= 100.0);
    assert!(attend(&qkv, 8, 1, &[0, 20]).iter().all(|x| x.is_finite()));
}
