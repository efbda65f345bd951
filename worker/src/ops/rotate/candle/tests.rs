use candle_core::{Device, Tensor};

use super::*;
use crate::ops::normalize::reference::normalize;
use crate::ops::rotate::reference::rotate;
use crate::plan::NormKind;

#[test]
fn turns_queries_and_keys_by_their_places_and_leaves_values() {
    for (heads, lengths) in [
        (Heads { count: 1, shared: 1, width: 2 }, &[1, 4][..]),
        (Heads { count: 3, shared: 3, width: 10 }, &[5, 1, 40]),
        (Heads { count: 4, shared: 2, width: 64 }, &[200, 60]),
    ] {
        let splits: Vec<usize> = [0]
            .into_iter()
            .chain(lengths.iter().scan(0, |end, length| {
                *end += length;
                Some(*end)
            }))
            .collect();
        let (tokens, wide) = (splits[splits.len() - 1], heads.row());
        let x: Vec<f32> = (0..tokens * wide).map(|index| (index as f32 * 0.731).sin()).collect();
        let norm = |phase: f32| Norm {
            kind: NormKind::Rms,
            gain: (0..heads.width).map(|at| 1.0 + 0.1 * (at as f32 + phase).cos()).collect(),
            shift: vec![0.0; heads.width],
            epsilon: 1e-6,
        };
        let both = [norm(0.0), norm(2.0)];
        for norms in [None, Some(&both)] {
            let mut angles = Angles::new(heads.width, 1e4);
            angles.reserve(lengths.iter().copied().max().unwrap());
            let found = Tensor::from_slice(&x, (tokens, wide), &Device::Cpu).unwrap();
            found.inplace_op1(&Rotate { heads, norms, angles: &angles, splits: &splits }).unwrap();
            let found = found.to_vec2::<f32>().unwrap();
            let places = splits.windows(2).flat_map(|pair| 0..pair[1] - pair[0]);
            for ((found, x), place) in found.iter().zip(x.chunks_exact(wide)).zip(places) {
                for (index, (found, x)) in found.chunks_exact(heads.width).zip(x.chunks_exact(heads.width)).enumerate()
                {
                    let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                    let normed = |norm: &Norm| normalize(norm.kind, &x, &norm.gain, &norm.shift, norm.epsilon);
                    let expected = match norms {
                        _ if index >= heads.count + heads.shared => x,
                        Some([_, keys]) if index >= heads.count => rotate(&normed(keys), place, 1e4),
                        Some([queries, _]) => rotate(&normed(queries), place, 1e4),
                        None => rotate(&x, place, 1e4),
                    };
                    for (found, expected) in found.iter().zip(expected) {
                        assert!((f64::from(*found) - expected).abs() < 1e-5, "{heads:?}: {found}, not {expected}");
                    }
                }
            }
        }
    }
}

#[test]
fn refuses_rows_and_sequences_of_other_lengths() {
    let heads = Heads { count: 2, shared: 1, width: 4 };
    let mut angles = Angles::new(4, 1e4);
    angles.reserve(8);
    for (width, splits, says) in [(15, [0, 3], "a row"), (16, [0, 2], "the sequences")] {
        let x = Tensor::zeros((3, width), candle_core::DType::F32, &Device::Cpu).unwrap();
        let rotate = Rotate { heads, norms: None, angles: &angles, splits: &splits };
        assert!(x.inplace_op1(&rotate).unwrap_err().to_string().contains(says), "{says}");
    }
}
