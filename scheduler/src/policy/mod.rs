//! When to close a batch. Mechanism asks, a policy answers, and neither imports the other's insides.
//!
//! A policy sees one queue through a read-only [`QueueView`] and one free credit's budget. It never sees requests,
//! workers or the clock. Which model and which worker come first is not its business.

mod fixed;
#[cfg(test)]
mod tests;
mod triton;

use alloc::boxed::Box;
use core::fmt;

use crate::queue::QueueView;
use crate::{CloseReason, PolicyConfig, Timestamp};

/// Decides when the waiting requests of one model become a batch.
pub(crate) trait BatchPolicy: fmt::Debug + Send {
    /// Asked whenever a worker that holds the model has a credit and something waits.
    fn decide(&self, now: Timestamp, queue: &QueueView) -> Decision;
}

/// The answer of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Close a batch now.
    Close(Close),
    /// Look again when something changes, at the latest then.
    WaitUntil(Timestamp),
}

/// How to close a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    /// Take so many rows at most, whatever the budget allows.
    pub(crate) rows_max: u32,
    /// The reason to give when it is `rows_max` or the end of the queue that closes the batch, not the budget.
    pub(crate) why: CloseReason,
}

/// The one place that knows which policies there are.
pub(crate) fn from_config(config: &PolicyConfig) -> Box<dyn BatchPolicy> {
    match config {
        PolicyConfig::Fixed => Box::new(fixed::Fixed),
        PolicyConfig::Triton { queue_delay_max, preferred_rows } => {
            Box::new(triton::Triton::new(*queue_delay_max, preferred_rows))
        }
    }
}
