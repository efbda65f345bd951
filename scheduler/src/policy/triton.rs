//! Triton Inference Server's dynamic batcher: preferred sizes and a queue delay, both set by hand.
//!
//! Kept as the baseline that users come from. Its priority levels and per-request timeouts are left out: classes and
//! deadlines belong to the mechanism.

use alloc::vec::Vec;
use core::num::NonZeroU32;
use core::time::Duration;

use super::{BatchPolicy, Close, Decision};
use crate::queue::QueueView;
use crate::{CloseReason, Timestamp};

/// Closes at the largest preferred size that is queued, at a full budget, or when the oldest request waited enough.
#[derive(Debug)]
pub(super) struct Triton {
    queue_delay_max: Duration,
    /// Ascending.
    preferred_rows: Vec<u32>,
}

impl Triton {
    pub(super) fn new(queue_delay_max: Duration, preferred_rows: &[NonZeroU32]) -> Self {
        let mut preferred_rows: Vec<u32> = preferred_rows.iter().map(|rows| rows.get()).collect();
        preferred_rows.sort_unstable();
        Self { queue_delay_max, preferred_rows }
    }
}

impl BatchPolicy for Triton {
    fn decide(&self, now: Timestamp, queue: &QueueView) -> Decision {
        let reachable = queue.rows.min(u64::from(queue.budget.rows));
        let preferred = self.preferred_rows.iter().rev().find(|rows| u64::from(**rows) <= reachable);
        if let Some(rows) = preferred {
            return Decision::Close(Close { rows_max: *rows, why: CloseReason::Preferred });
        }
        let close = |why| Decision::Close(Close { rows_max: u32::MAX, why });
        if queue.rows >= u64::from(queue.budget.rows) {
            return close(CloseReason::Rows);
        }
        if queue.tokens > 0 && queue.tokens >= u64::from(queue.budget.tokens) {
            return close(CloseReason::Tokens);
        }
        if queue.bytes > 0 && queue.bytes >= queue.budget.bytes {
            return close(CloseReason::Bytes);
        }
        let until = queue.oldest + self.queue_delay_max;
        if until <= now { close(CloseReason::Delay) } else { Decision::WaitUntil(until) }
    }
}
