use half::bf16;

use super::*;
use crate::cpu::testing::on_all_vectors;
use crate::ops::normalize::reference::normalize;
use crate::ops::rotate::reference;
use crate::plan::NormKind;

/// An empty sequence, and ones of several lengths.
const SPLITS: [usize; 5] = [0, 3, 3, 4, 24];

fn follows<V: Simd>() {
    for (heads, kind) in [
        (Heads { count: 1, shared: 1, width: 2 }, NormKind::Rms),
        (Heads { count: 3, shared: 3, width: 10 }, NormKind::Layer),
        (Heads { count: 4, shared: 2, width: 64 }, NormKind::Rms),
        (Heads { count: 2, shared: 1, width: 80 }, NormKind::Layer),
    ] {
        let (tokens, wide) = (SPLITS[SPLITS.len() - 1], heads.row());
        let stride = wide.next_multiple_of(16) + 16;
        let mut input: Vec<f32> = (0..tokens * stride).map(|index| (index as f32 * 0.731).sin()).collect();
        input.chunks_exact_mut(stride).for_each(|row| row[wide..].fill(f32::NAN));
        let wave = |phase: f32| (0..heads.width).map(|at| 1.0 + 0.3 * (at as f32 + phase).cos()).collect::<Vec<_>>();
        let (gains, shifts) = ([wave(0.0), wave(1.0)], [wave(2.0), wave(3.0)]);
        let norm = |of: usize| Norm { kind, gain: &gains[of], shift: &shifts[of], epsilon: 1e-6 };
        let mut angles = Angles::new(heads.width, 1e4);
        angles.reserve(20);
        for norms in [None, Some([norm(0), norm(1)])] {
            let turn = Turn { heads, norms, angles: &angles };
            let (mut exact, mut narrow) = (vec![7.0f32; tokens * stride], vec![bf16::ONE; tokens * stride]);
            let from = Rows::new(input.as_mut_ptr(), stride);
            // SAFETY: `on_all_vectors` looked whether the processor has the instructions; all views have the rows and columns.
            unsafe {
                for rows in [0..5, 5..tokens] {
                    rotate::<V, f32>(&turn, &SPLITS, rows.clone(), from, Rows::new(exact.as_mut_ptr(), stride));
                    rotate::<V, bf16>(&turn, &SPLITS, rows, from, Rows::new(narrow.as_mut_ptr(), stride));
                }
            }
            let places = SPLITS.windows(2).flat_map(|pair| 0..pair[1] - pair[0]);
            for (row, place) in places.enumerate() {
                let expected = (0..heads.count + 2 * heads.shared).flat_map(|index| {
                    let x = &input[row * stride + index * heads.width..][..heads.width];
                    let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                    let of = usize::from(index >= heads.count);
                    match norms {
                        _ if index >= heads.count + heads.shared => x,
                        Some(_) => reference::rotate(&normalize(kind, &x, &gains[of], &shifts[of], 1e-6), place, 1e4),
                        None => reference::rotate(&x, place, 1e4),
                    }
                });
                let (exact, narrow) = (&exact[row * stride..][..stride], &narrow[row * stride..][..stride]);
                for ((exact, narrow), expected) in exact.iter().zip(narrow).zip(expected) {
                    assert!((f64::from(*exact) - expected).abs() < 1e-5, "{heads:?}: {exact}, not {expected}");
                    assert_eq!(bf16::from_f32(*exact), *narrow);
                }
                let padded = wide.next_multiple_of(16);
                assert!(exact[wide..padded].iter().all(|x| *x == 0.0) && exact[padded..].iter().all(|x| *x == 7.0));
            }
        }
    }
}

#[test]
fn follows_the_reference_for_heads_of_any_width() {
    on_all_vectors!(follows);
}
