use super::*;
use crate::cpu::testing::on_all_vectors;
use crate::ops::pool::reference;

fn follows<V: Simd>() {
    let splits = [0, 1, 3, 20, 532];
    for width in [1usize, 5, 8, 16, 17, 127, 128, 130, 384] {
        let padded = width.next_multiple_of(16);
        let stride = padded + 3;
        let mut input: Vec<f32> = (0..532 * stride).map(|index| (index as f32 * 0.7).sin()).collect();
        input.chunks_exact_mut(stride).for_each(|row| row[width..].fill(f32::NAN));
        for pooling in Pooling::ALL {
            let mut out = vec![7.0f32; 4 * stride];
            let (from, to) = (Rows::new(input.as_mut_ptr(), stride), Rows::new(out.as_mut_ptr(), stride));
            for sequences in [0..1, 1..4] {
                // SAFETY: `on_all_vectors` looked whether the processor has the instructions; both matrices have the rows.
                unsafe { pool::<V>(pooling, from, &splits, sequences, width, to) };
            }
            for sequence in 0..4 {
                let rows: Vec<Vec<f64>> = (splits[sequence]..splits[sequence + 1])
                    .map(|row| input[row * stride..][..width].iter().map(|x| f64::from(*x)).collect())
                    .collect();
                let out = &out[sequence * stride..][..stride];
                for (found, expected) in out.iter().zip(reference::pool(&rows, pooling)) {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error < 1e-5, "{pooling:?} of {width} columns: {found}, not {expected}");
                }
                assert!(out[width..padded].iter().all(|x| *x == 0.0), "{pooling:?} of {width} columns is not padded");
                assert!(out[padded..].iter().all(|x| *x == 7.0), "{pooling:?} of {width} columns writes beyond them");
            }
        }
    }
}

#[test]
fn follows_the_reference_for_any_width_and_length() {
    on_all_vectors!(follows);
}
