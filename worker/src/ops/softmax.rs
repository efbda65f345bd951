//! `p[i] = e^(x[i] - max) / Σ_j e^(x[j] - max)` of one row of logits, for whoever wants few of its entries.

use super::{math, vectorize};

/// What makes logits of a row probabilities.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    max: f32,
    /// `1 / Σ e^(x - max)`
    scale: f32,
}

impl Scale {
    pub(crate) fn of(logits: &[f32]) -> Self {
        let (mut max, mut sum) = (0.0, 0.0);
        vectorize(
            #[inline(always)]
            || {
                max = math::max(logits);
                sum = math::sum(logits, |x| math::exp(x - max));
            },
        );
        Self::new(max, sum)
    }

    /// Of a row of which this is known: its largest logit, and `Σ e^(x - max)`.
    pub(crate) fn new(max: f32, sum: f32) -> Self {
        Self { max, scale: 1.0 / sum }
    }

    pub(crate) fn probability(&self, logit: f32) -> f32 {
        math::exp(logit - self.max) * self.scale
    }
}
