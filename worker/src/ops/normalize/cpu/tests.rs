use super::*;
use crate::cpu::testing::on_all_vectors;
use crate::ops::normalize::reference;

const WIDTHS: [usize; 14] = [1, 5, 7, 8, 9, 15, 16, 17, 37, 64, 100, 384, 768, 1030];
const STRIDE: usize = 1056;
const ROWS: usize = 3;

fn layer<'a>(gain: &'a [f32], shift: &'a [f32]) -> Norm<'a> {
    Norm { kind: NormKind::Layer, gain, shift, epsilon: 1e-5 }
}

fn wave(step: f32, len: usize) -> Vec<f32> {
    (0..len).map(|index| 3.0 * (index as f32 * step).sin()).collect()
}

/// Rows of which only the first `width` columns are numbers.
fn rows(step: f32, width: usize) -> Vec<f32> {
    let mut rows = wave(step, ROWS * STRIDE);
    rows.chunks_exact_mut(STRIDE).for_each(|row| row[width..].fill(f32::NAN));
    rows
}

/// One row's results and its padding; what follows is as it was.
fn check(found: &[f32], expected: &[f64], error: f64, before: f32, what: &str) {
    let (width, padded) = (expected.len(), expected.len().next_multiple_of(16));
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() <= error * expected.abs().max(1.0), "{what}: {found}, {expected}");
    }
    assert!(found[width..padded].iter().all(|x| *x == 0.0), "{what}: padding");
    assert!(found[padded..].iter().all(|x| x.to_bits() == before.to_bits()), "{what}: beyond the padding");
}

fn follows<V: Simd>() {
    for width in WIDTHS {
        let (gain, shift) = (wave(0.11, width), wave(0.13, width));
        for (with_residual, kind) in [(false, NormKind::Layer), (true, NormKind::Layer), (true, NormKind::Rms)] {
            let norm = Norm { kind, ..layer(&gain, &shift) };
            let (mut input, mut residual) = (rows(0.7, width), rows(1.3, width));
            let mut wide = vec![7.0f32; ROWS * STRIDE];
            let mut narrow = vec![bf16::ONE; ROWS * STRIDE];
            let view = |rows: &mut Vec<f32>| Rows::new(rows.as_mut_ptr(), STRIDE);
            let other = with_residual.then(|| view(&mut residual));
            let (wide_view, narrow_view) = (Some(view(&mut wide)), Some(Rows::new(narrow.as_mut_ptr(), STRIDE)));
            // SAFETY: `on_all_vectors` looked whether the processor has the instructions; all views have the rows and columns.
            unsafe {
                add_norm::<V>(ROWS, &norm, view(&mut input), other, wide_view, narrow_view);
            }
            for row in 0..ROWS {
                let at = row * STRIDE;
                let x: Vec<f64> = (at..at + width)
                    .map(|at| f64::from(input[at]) + if with_residual { f64::from(residual[at]) } else { 0.0 })
                    .collect();
                let expected = reference::normalize(kind, &x, &gain, &shift, 1e-5);
                let what = format!("{kind:?}, {width} columns, residual {with_residual}, row {row}");
                // A row of one number has no variance, and what is left of its sum is blown up.
                check(&wide[at..at + STRIDE], &expected, 1e-5, 7.0, &what);
                let found: Vec<f32> = narrow[at..at + STRIDE].iter().map(|x| x.to_f32()).collect();
                check(&found, &expected, 1.0 / 256.0, 1.0, &what);
                for (wide, narrow) in wide[at..at + width].iter().zip(&narrow[at..]) {
                    assert_eq!(bf16::from_f32(*wide), *narrow, "{what}");
                }
            }
        }
    }
}

#[test]
fn follows_the_reference_for_any_width() {
    on_all_vectors!(follows);
}

fn one_of_two<V: Simd>() {
    for width in WIDTHS {
        let (gain, shift) = (wave(0.11, width), wave(0.13, width));
        for with_residual in [false, true] {
            let norm = |has_wide: bool, has_narrow: bool| {
                let (mut input, mut residual) = (rows(0.7, width), rows(1.3, width));
                let (mut wide, mut narrow) = (vec![7.0f32; ROWS * STRIDE], vec![bf16::ONE; ROWS * STRIDE]);
                let view = |rows: &mut Vec<f32>| Rows::new(rows.as_mut_ptr(), STRIDE);
                let other = with_residual.then(|| view(&mut residual));
                let wide_view = has_wide.then(|| view(&mut wide));
                let narrow_view = has_narrow.then(|| Rows::new(narrow.as_mut_ptr(), STRIDE));
                // SAFETY: as above.
                unsafe {
                    add_norm::<V>(ROWS, &layer(&gain, &shift), view(&mut input), other, wide_view, narrow_view);
                }
                let wide: Vec<u32> = wide.into_iter().map(f32::to_bits).collect();
                let narrow: Vec<u16> = narrow.into_iter().map(bf16::to_bits).collect();
                (wide, narrow)
            };
            let untouched = norm(false, false);
            let both = norm(true, true);
            // With the padding and what is beyond it.
            assert!(norm(true, false) == (both.0.clone(), untouched.1), "{width} columns, only wide");
            assert!(norm(false, true) == (untouched.0, both.1), "{width} columns, only narrow");
        }
    }
}

#[test]
fn gives_the_same_bits_in_one_form_as_in_both() {
    on_all_vectors!(one_of_two);
}

fn in_place<V: Simd>() {
    for width in WIDTHS {
        let (gain, shift) = (wave(0.11, width), wave(0.13, width));
        let norm = |over: usize| {
            let (mut input, mut residual) = (rows(0.7, width), rows(1.3, width));
            let mut out = rows(1.0, width);
            let view = |rows: &mut Vec<f32>| Rows::new(rows.as_mut_ptr(), STRIDE);
            let (first, second) = (view(&mut input), view(&mut residual));
            let wide = [view(&mut out), first, second][over];
            // SAFETY: as above.
            unsafe { add_norm::<V>(ROWS, &layer(&gain, &shift), first, Some(second), Some(wide), None) };
            let written = vec![out, input, residual].swap_remove(over);
            written.chunks_exact(STRIDE).map(|row| row[..width].to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(norm(0), norm(1), "{width} columns, over the input");
        assert_eq!(norm(0), norm(2), "{width} columns, over the residual");
    }
}

#[test]
fn may_write_over_what_it_reads() {
    on_all_vectors!(in_place);
}

fn far_mean<V: Simd>() {
    let (gain, shift) = (vec![1.0; 384], vec![0.0; 384]);
    let mut input: Vec<f32> = wave(0.7, 384).iter().map(|x| x + 1000.0).collect();
    let mut wide = vec![0.0; 384];
    let (view, out) = (Rows::new(input.as_mut_ptr(), 384), Rows::new(wide.as_mut_ptr(), 384));
    // SAFETY: as above.
    unsafe { add_norm::<V>(1, &layer(&gain, &shift), view, None, Some(out), None) };
    let x: Vec<f64> = input.iter().map(|x| f64::from(*x)).collect();
    check(
        &wide,
        &reference::normalize(NormKind::Layer, &x, &gain, &shift, 1e-5),
        1e-3,
        0.0,
        "numbers about a thousand",
    );
}

#[test]
fn a_mean_far_from_zero_does_not_swallow_the_variance() {
    on_all_vectors!(far_mean);
}
