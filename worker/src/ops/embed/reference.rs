//! The specification, in double precision.

use crate::ops::normalize::reference::normalize;
use crate::plan::NormKind;

/// One token: the rows of its tables summed up and normalised.
pub(crate) fn embed(kind: NormKind, rows: &[&[f64]], gain: &[f32], shift: &[f32], epsilon: f32) -> Vec<f64> {
    let sums: Vec<f64> = (0..gain.len()).map(|column| rows.iter().map(|row| row[column]).sum()).collect();
    normalize(kind, &sums, gain, shift, epsilon)
}
