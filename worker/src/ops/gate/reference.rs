//! The specification, in double precision.

use crate::ops::activate::reference::activate;
use crate::plan::Activation;

/// The activated first half of one row times its second.
pub(crate) fn gate(x: &[f64], activation: Activation) -> Vec<f64> {
    let (first, second) = x.split_at(x.len() / 2);
    first.iter().zip(second).map(|(x, y)| activate(*x, activation) * y).collect()
}
