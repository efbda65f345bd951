//! A model's time as a function of the batch's size.

use crate::cost::{Size, Terms, dot};

/// Share of the base in a batch's time below which a larger batch buys next to nothing: 5 %.
const KNEE_SHARE: f64 = 0.05;
/// No part is larger: 584 years in nanoseconds.
const PART_MAX: f64 = u64::MAX as f64;

/// The time of a batch in nanoseconds: `base + per_row·rows + per_token·tokens + per_square·squares`.
///
/// No part is ever negative, infinite or not a number. The default is the unknown curve: all parts are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Curve {
    parts: Terms,
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

    /// What `size` adds to the time of a batch that runs anyway, in nanoseconds.
    pub(crate) fn marginal(&self, size: Size) -> f64 {
        let [_, per_row, per_token, per_square] = self.parts;
        let [_, rows, tokens, squares] = size.terms();
        per_row * rows + per_token * tokens + per_square * squares
    }

    /// Rows at which the base is 5 % of a batch's time, if its rows are on average like those of `average`.
    ///
    /// `average` may be one row or the sum of many. At least 1; without end where a row costs nothing.
    pub(crate) fn knee(&self, average: Size) -> u64 {
        let per_average_row = self.marginal(average) / average.rows.max(1) as f64;
        let [base, ..] = self.parts;
        let knee = base * (1.0 - KNEE_SHARE);
        let rows = per_average_row * KNEE_SHARE;
        if rows > 0.0 { ((knee / rows) as u64).max(1) } else { u64::MAX }
    }

    /// The same shape, `factor` times as high.
    pub(super) fn times(&self, factor: f64) -> Self {
        Self::from_parts(self.parts.map(|part| part * factor))
    }
}
