use half::bf16;

use super::*;
use crate::ops::pick::reference;

fn follows<T: Copy + PartialEq + std::fmt::Debug>(of: impl Fn(f32) -> T) {
    let marks = [0, 1, 5, 5, 9];
    for (width, stride) in [(1, 4), (16, 16), (37, 40)] {
        let rows: Vec<Vec<T>> =
            (0..10).map(|row| (0..stride).map(|column| of((row * 50 + column) as f32)).collect()).collect();
        let (mut input, mut out) = (rows.concat(), vec![of(-1.0); 5 * stride]);
        let (from, to) = (Rows::new(input.as_mut_ptr(), stride), Rows::new(out.as_mut_ptr(), stride));
        for some in [0..2, 2..5] {
            // SAFETY: both matrices have the rows, and are two.
            unsafe { pick(&marks, some, width, from, to) };
        }
        for (found, expected) in out.chunks_exact(stride).zip(reference::pick(&rows, &marks)) {
            assert_eq!(found[..width], expected[..width]);
            assert!(found[width..].iter().all(|x| *x == of(-1.0)), "{width} of {stride} columns");
        }
    }
}

#[test]
fn copies_marked_rows_and_nothing_beside_them() {
    follows(|x| x);
    follows(bf16::from_f32);
}
