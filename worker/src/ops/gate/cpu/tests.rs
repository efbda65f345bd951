use half::bf16;

use super::*;
use crate::cpu::testing::on_all_vectors;
use crate::ops::gate::reference;

const ROWS: usize = 3;

fn follows<V: Simd>() {
    for width in [1usize, 7, 8, 16, 17, 33, 100, 1152] {
        let (wide, stride) = (2 * width + 5, width.next_multiple_of(16) + 16);
        let mut input: Vec<f32> = (0..ROWS * wide).map(|index| 3.0 * (index as f32 * 0.37).sin()).collect();
        // What is behind the halves is not looked at.
        input.chunks_exact_mut(wide).for_each(|row| row[2 * width..].fill(f32::NAN));
        for activation in Activation::ALL {
            let (mut exact, mut narrow) = (vec![7.0f32; ROWS * stride], vec![bf16::ONE; ROWS * stride]);
            let from = Rows::new(input.as_mut_ptr(), wide);
            // SAFETY: `on_all_vectors` looked whether the processor has the instructions; all views have the rows and columns.
            unsafe {
                gate::<V, f32>(1..ROWS, width, activation, from, Rows::new(exact.as_mut_ptr(), stride));
                gate::<V, bf16>(1..ROWS, width, activation, from, Rows::new(narrow.as_mut_ptr(), stride));
            }
            assert!(exact[..stride].iter().all(|x| *x == 7.0), "a row that was not asked for");
            for row in 1..ROWS {
                let x: Vec<f64> = input[row * wide..][..2 * width].iter().map(|x| f64::from(*x)).collect();
                let (exact, narrow) = (&exact[row * stride..][..stride], &narrow[row * stride..][..stride]);
                for (column, expected) in reference::gate(&x, activation).into_iter().enumerate() {
                    let off = |found: f32| (f64::from(found) - expected).abs() / expected.abs().max(1.0);
                    let (exact, narrow) = (exact[column], narrow[column].to_f32());
                    assert!(off(exact) < 1e-5, "{activation:?}, {width}: {exact}, not {expected}");
                    assert!(off(narrow) < 1e-2, "{activation:?}, {width}: {narrow}, not {expected}");
                }
                let padded = width.next_multiple_of(16);
                assert!(exact[width..padded].iter().all(|x| *x == 0.0) && exact[padded..].iter().all(|x| *x == 7.0));
            }
        }
    }
}

#[test]
fn follows_the_reference_for_any_width() {
    on_all_vectors!(follows);
}
