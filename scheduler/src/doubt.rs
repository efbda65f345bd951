//! Whether to believe an estimate that refuses everybody: it would never be seen to be wrong.

use core::time::Duration;

use crate::Timestamp;

/// Calls refused in a row, with no batch of the model in between, after which one is tried.
const REFUSALS: u32 = 16;
/// Between two that are tried.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// Counts the calls of a model that were refused because of what batches are thought to take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Doubt {
    refusals: u32,
    tried: Option<Timestamp>,
}

impl Doubt {
    /// A batch told how long it took.
    pub(crate) fn settle(&mut self) {
        self.refusals = 0;
    }

    /// One more is to be refused. Says whether it is to be tried instead.
    pub(crate) fn tries(&mut self, now: Timestamp) -> bool {
        self.refusals = self.refusals.saturating_add(1);
        let is_time = self.refusals > REFUSALS && self.tried.is_none_or(|tried| now.since(tried) >= TRY_EVERY);
        if is_time {
            *self = Self { refusals: 0, tried: Some(now) };
        }
        is_time
    }
}
