//! A model's time as a function of the batch's size.

use crate::BatchCost;
use crate::cost::{Size, Terms, dot};

/// No part is larger: 584 years in nanoseconds.
const PART_MAX: f64 = u64::MAX as f64;

/// The time of a batch in nanoseconds: `base + per_row·rows + per_token·tokens + per_square·squares`.
///
/// No part is ever negative, infinite or not a number. The default is the unknown curve: all parts are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Curve {
    parts: Terms,
}

impl From<BatchCost> for Curve {
    fn from(cost: BatchCost) -> Self {
        let (token, square) = (cost.token_ps as f64 / 1e3, cost.token_squared_fs as f64 / 1e6);
        Self::new(cost.base_ns as f64, cost.row_ns as f64, token, square)
    }
}

impl From<Curve> for BatchCost {
    /// To the nearest unit; what is larger than fits is the largest that does.
    fn from(curve: Curve) -> Self {
        let [base, row, token, square] = curve.parts;
        let nearest = |part: f64| (part + 0.5) as u64;
        Self {
            base_ns: nearest(base),
            row_ns: nearest(row),
            token_ps: nearest(token * 1e3),
            token_squared_fs: nearest(square * 1e6),
        }
    }
}

impl Curve {
    /// A curve of these parts in nanoseconds. What is negative or not a number is 0.
    pub(crate) fn new(base: f64, per_row: f64, per_token: f64, per_square: f64) -> Self {
        Self::from_parts([base, per_row, per_token, per_square])
    }

    /// Like [`new`](Self::new), in the order that [`parts`](Self::parts) gives them.
    pub(crate) fn from_parts(parts: [f64; 4]) -> Self {
        Self { parts: parts.map(|part| if part > 0.0 { part.min(PART_MAX) } else { 0.0 }) }
    }

    /// Base, per row, per token and per square, in nanoseconds.
    pub(crate) const fn parts(&self) -> [f64; 4] {
        self.parts
    }

    /// Whether it says anything.
    pub(crate) fn is_known(&self) -> bool {
        self.parts.iter().any(|part| *part > 0.0)
    }

    /// How long a batch of this size takes, in nanoseconds. 0 if the curve is unknown.
    pub(crate) fn time(&self, size: Size) -> f64 {
        dot(&self.parts, &size.terms())
    }

    /// The same shape, `factor` times as high.
    pub(super) fn times(&self, factor: f64) -> Self {
        Self::from_parts(self.parts.map(|part| part * factor))
    }
}
