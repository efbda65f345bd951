//! When to close a batch, how much time it may take, and who cannot be on time any more. Mechanism asks, a policy
//! answers, and neither imports the other's insides.
//!
//! A policy sees one model's queue and what its batches cost, and of the workers how many there are and which of them is
//! to take the batch, in a read-only [`View`]. It never sees requests it did not ask for, other models or the clock.
//! Which model and which worker come first is not its business.

mod baseline;
mod fixed;
mod learned;
mod round;
mod stretch;
#[cfg(test)]
mod tests;
mod triton;
mod victims;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::company::Company;
use crate::cost::{Costs, Size};
use crate::pools::Idle;
use crate::queue::Queue;
use crate::shares::Shares;
use crate::{Budget, CloseReason, OnLate, PolicyConfig, RequestId, Timestamp, WorkerId};

/// Decides when the waiting requests of one model become a batch.
pub(crate) trait BatchPolicy: fmt::Debug + Send {
    /// Asked whenever a worker that holds the model has a credit and something waits. Given the same queue it must say the
    /// same later, until what it waits for has come.
    fn decide(&self, view: &View<'_>) -> Decision;

    /// Which of the requests that could still be on time are to be given up as late before that. `free` says when workers
    /// that the model can count on are free, in order, and which they are; the first is free now.
    fn give_up(&self, view: &View<'_>, free: &dyn Fn() -> Vec<(Timestamp, WorkerId)>) -> Vec<RequestId> {
        let _ = (view, free);
        Vec::new()
    }

    /// How long before the first request of the queue is due its next batch should start at the latest, where so many
    /// workers hold the model.
    fn earlier(&self, queue: &Queue, costs: &Costs, objective: Duration, workers: u32) -> Duration {
        let _ = (queue, costs, objective, workers);
        Duration::ZERO
    }

    /// Learns how long a batch of this size took.
    fn observe(&mut self, size: Size, taken: Duration, objective: Duration) {
        let _ = (size, taken, objective);
    }

    /// Whether workers whose batches take longer than nearly all do are to be suspected, and those batches run again.
    fn minds_slow_batches(&self) -> bool {
        false
    }

    /// What becomes of them, and of those that would be late even alone; `None` where the policy knows no lateness.
    fn on_late(&self) -> Option<OnLate> {
        None
    }
}

/// What a policy is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) now: Timestamp,
    pub(crate) queue: &'a Queue,
    /// What one batch may hold on the worker that has a credit.
    pub(crate) budget: Budget,
    /// Which that is.
    pub(crate) worker: WorkerId,
    pub(crate) costs: &'a Costs,
    /// What others are going to put into the same batch.
    pub(crate) company: Company,
    /// Whether workers serve other schedulers as well: then who is late has turns of its own.
    pub(crate) is_sharing: bool,
    pub(crate) shares: &'a Shares,
    /// The model's latency objective.
    pub(crate) objective: Duration,
    /// Workers that hold the model.
    pub(crate) workers: u32,
    /// Of them those with nothing to do.
    pub(crate) idle: Idle<'a>,
    /// Until when another worker may come, where this one is not trusted.
    pub(crate) hold_until: Option<Timestamp>,
    /// Whether so much is asked for that batches are worth waiting for.
    pub(crate) is_busy: bool,
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
    /// Take so much time at most, and no more than those in it have left; `None` where time is no matter.
    pub(crate) time_max: Option<Duration>,
    /// The reason to give when it is `time_max` that closes the batch.
    pub(crate) why_time: CloseReason,
    /// The reason to give when it is `rows_max` or the end of the queue that closes the batch, not the budget.
    pub(crate) why: CloseReason,
}

impl Close {
    /// With all that fits.
    pub(crate) const fn all(why: CloseReason) -> Self {
        Self { rows_max: u32::MAX, time_max: None, why_time: CloseReason::Objective, why }
    }
}

/// The one place that knows which policies there are.
pub(crate) fn from_config(config: &PolicyConfig) -> Box<dyn BatchPolicy> {
    match config {
        PolicyConfig::Baseline(baseline) => baseline::from_config(*baseline),
        PolicyConfig::Fixed => Box::new(fixed::Fixed),
        PolicyConfig::Triton { queue_delay_max, preferred_rows } => {
            Box::new(triton::Triton::new(*queue_delay_max, preferred_rows))
        }
        PolicyConfig::Learned { wait_price, waits_when_idle, on_late } => {
            Box::new(learned::Learned { wait_price: *wait_price, waits_when_idle: *waits_when_idle, on_late: *on_late })
        }
    }
}
