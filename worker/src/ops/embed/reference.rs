//! The specification, in double precision.

use crate::ops::normalize::reference::normalize;
use crate::plan::NormKind;

/// One token: the rows of its tables summed up and normalised.
pub(crate) fn embed(kind: NormKind, rows: &[&[f64]], gain: &[f32], shift: &[f32], epsilon: f32) -> Vec<f64> {
    normalize(kind, &sum(rows), gain, shift, epsilon)
}

/// Where there is no norm.
pub(crate) fn sum(rows: &[&[f64]]) -> Vec<f64> {
    (0..rows[0].len()).map(|column| rows.iter().map(|row| row[column]).sum()).collect()
}
