//! Triton Inference Server's dynamic batcher: preferred sizes and a queue delay, both set by hand.
//!
//! Kept as the baseline that users come from. Its priority levels and per-request timeouts are left out: classes and
//! deadlines belong to the mechanism.

use alloc::vec::Vec;
use core::num::NonZeroU32;
use core::time::Duration;

use super::{BatchPolicy, Close, Decision, View};
use crate::CloseReason;

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
    fn decide(&self, view: &View<'_>) -> Decision {
        let (waiting, budget) = (view.queue.waiting(), view.budget);
        let reachable = waiting.rows.min(u64::from(budget.rows));
        let preferred = self.preferred_rows.iter().rev().find(|rows| u64::from(**rows) <= reachable);
        if let Some(rows) = preferred {
            return Decision::Close(Close { rows_max: *rows, ..Close::all(CloseReason::Preferred) });
        }
        let close = |why| Decision::Close(Close::all(why));
        if waiting.rows >= u64::from(budget.rows) {
            return close(CloseReason::Rows);
        }
        if waiting.tokens > 0 && waiting.tokens >= u64::from(budget.tokens) {
            return close(CloseReason::Tokens);
        }
        if waiting.bytes > 0 && waiting.bytes >= budget.bytes {
            return close(CloseReason::Bytes);
        }
        let until = view.queue.oldest_waiting().unwrap_or(view.now) + self.queue_delay_max;
        if until <= view.now { close(CloseReason::Delay) } else { Decision::WaitUntil(until) }
    }
}
