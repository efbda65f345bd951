//! Clipper's batches (Crankshaw et al., NSDI 2017): one row larger after each batch that kept the objective, a tenth
//! smaller after one that did not. Whoever is late is served all the same.

use core::time::Duration;

use super::super::{BatchPolicy, Close, Decision, View};
use crate::CloseReason;
use crate::cost::Size;

/// Additive increase, multiplicative decrease of the largest batch.
#[derive(Debug)]
pub(super) struct Aimd {
    rows: u64,
}

impl Default for Aimd {
    fn default() -> Self {
        Self { rows: 1 }
    }
}

impl BatchPolicy for Aimd {
    fn decide(&self, _view: &View<'_>) -> Decision {
        let rows_max = u32::try_from(self.rows).unwrap_or(u32::MAX);
        Decision::Close(Close { rows_max, ..Close::all(CloseReason::Drained) })
    }

    fn observe(&mut self, size: Size, taken: Duration, objective: Duration) {
        if taken > objective {
            self.rows = (self.rows * 9 / 10).max(1);
        } else if size.rows >= self.rows {
            self.rows += 1;
        }
    }
}
