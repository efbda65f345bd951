use super::even;
use crate::Cost;
use crate::cost::{Curve, Size};

#[test]
fn adds_and_takes_back_sizes_without_wrapping() {
    let mut size = even(2, 10);
    size.add(Size::from(Cost { rows: 1, tokens: 5, tokens_squared: 25, bytes: 99 }));
    assert_eq!(size, Size { rows: 3, tokens: 25, squares: 225 });
    size.remove(even(2, 10));
    assert_eq!(size, even(1, 5));
    size.remove(even(2, 10));
    assert_eq!(size, Size::default());
    size.add(Size { rows: u64::MAX, tokens: u64::MAX, squares: u64::MAX });
    size.add(even(1, 1));
    assert_eq!(size.rows, u64::MAX);
}

#[test]
fn sums_its_parts() {
    let curve = Curve::new(1_000.0, 100.0, 10.0, 1.0);
    assert_eq!(curve.time(even(2, 3)), 1_000.0 + 200.0 + 60.0 + 18.0);
    assert_eq!(curve.time(Size::default()), 1_000.0);
}

#[test]
fn has_no_part_that_is_negative_or_no_number() {
    let curve = Curve::new(-1.0, f64::NAN, f64::NEG_INFINITY, f64::INFINITY);
    assert_eq!(curve.parts(), [0.0, 0.0, 0.0, u64::MAX as f64]);
    assert!(curve.is_known());
    assert!(!Curve::default().is_known());
}
