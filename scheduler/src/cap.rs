//! What a worker's memory was found to hold of one model.

use crate::Budget;

/// Good batches after which a cap grows.
const GOOD_BATCHES: u32 = 100;

/// A learned limit on batches of one model on one worker, lowered by every out-of-memory and raised again slowly.
///
/// Models with tokens are limited by tokens and others by rows: that is what their memory follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cap {
    rows: u32,
    tokens: u32,
    /// Good batches since it last grew.
    good: u32,
}

impl Cap {
    pub(crate) const NONE: Self = Self { rows: u32::MAX, tokens: u32::MAX, good: 0 };

    /// Learns that a batch of this size did not fit: the next ones hold at most four fifths of it.
    pub(crate) fn shrink(&mut self, rows: u32, tokens: u32) {
        let four_fifths = |size: u32| (size - size.div_ceil(5)).max(1);
        if tokens > 0 {
            self.tokens = self.tokens.min(four_fifths(tokens));
        } else {
            self.rows = self.rows.min(four_fifths(rows));
        }
        self.good = 0;
    }

    /// Learns that a batch went well: every hundredth one raises the cap by 2 %, at least by one.
    pub(crate) fn count_good(&mut self) {
        self.good += 1;
        if self.good == GOOD_BATCHES {
            let grown = |size: u32| size.saturating_add((size / 50).max(1));
            *self = Self { rows: grown(self.rows), tokens: grown(self.tokens), good: 0 };
        }
    }

    pub(crate) fn apply(&self, budget: Budget) -> Budget {
        Budget { rows: budget.rows.min(self.rows), tokens: budget.tokens.min(self.tokens), bytes: budget.bytes }
    }
}
