use candle_core::{Device, Tensor};

use super::*;
use crate::ops::attend::reference::attend as attend_one;

/// One query of one sequence through all heads.
fn expected(qkv: &[f32], heads: Heads, mask: Mask, (start, end): (usize, usize), query: usize) -> Vec<f64> {
    let scale = std::f64::consts::LOG2_E / (heads.width as f64).sqrt();
    let part = |token: usize, at: usize| -> Vec<f64> {
        qkv[token * heads.row() + at..][..heads.width].iter().map(|x| f64::from(*x)).collect()
    };
    let seen = mask.seen(query - start, end - start);
    let of = |head: usize| {
        let [q, k, v] = heads.columns(head);
        let q: Vec<f64> = part(query, q).iter().map(|x| x * scale).collect();
        let rows = |at: usize| seen.clone().map(|key| part(start + key, at)).collect::<Vec<_>>();
        attend_one(&q, rows(k).iter().map(Vec::as_slice), rows(v).iter().map(Vec::as_slice))
    };
    (0..heads.count).flat_map(of).collect()
}

fn wave(len: usize) -> Vec<f32> {
    (0..len).map(|index| (index as f32 * 0.37).sin() * 2.0).collect()
}

fn attend(qkv: &[f32], heads: Heads, mask: Mask, splits: &[usize]) -> Vec<f32> {
    let scale = 1.0 / (heads.width as f32).sqrt();
    let tensor = Tensor::from_vec(qkv.to_vec(), (qkv.len() / heads.row(), heads.row()), &Device::Cpu).unwrap();
    let out = tensor.apply_op1_no_bwd(&Attend { heads, mask, scale, splits }).unwrap();
    out.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn follows_the_reference_for_mixed_lengths_head_sizes_and_masks() {
    let masks = [Mask::None, Mask::Causal, Mask::Window(0), Mask::Window(5), Mask::Window(64)];
    for (count, shared, width) in [(1, 1, 8), (3, 3, 5), (4, 2, 32), (2, 1, 64)] {
        let (heads, splits) = (Heads { count, shared, width }, [0, 1, 18, 18, 150, 160]);
        let qkv = wave(160 * heads.row());
        for mask in masks {
            let found = attend(&qkv, heads, mask, &splits);
            for pair in splits.windows(2) {
                for query in pair[0]..pair[1] {
                    let expected = expected(&qkv, heads, mask, (pair[0], pair[1]), query);
                    let found = &found[query * heads.queries()..][..heads.queries()];
                    for (found, expected) in found.iter().zip(expected) {
                        let off = (f64::from(*found) - expected).abs();
                        assert!(off < 1e-5, "{heads:?} {mask:?} query {query}: {found}, not {expected}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_sequence_does_not_see_its_mates() {
    let (heads, width) = (Heads { count: 2, shared: 2, width: 32 }, 64);
    let qkv = wave(100 * 3 * width);
    let mixed = attend(&qkv, heads, Mask::None, &[0, 70, 77, 100]);
    let alone = attend(&qkv[70 * 3 * width..77 * 3 * width], heads, Mask::None, &[0, 7]);
    assert_eq!(mixed[70 * width..77 * width], alone);
}

#[test]
fn survives_scores_far_apart() {
    let mut qkv = wave(20 * 3 * 8);
    qkv.iter_mut().for_each(|x| *x *= 100.0);
    let heads = Heads { count: 1, shared: 1, width: 8 };
    assert!(attend(&qkv, heads, Mask::None, &[0, 20]).iter().all(|x| x.is_finite()));
}
