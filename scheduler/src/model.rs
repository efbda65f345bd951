//! One configured model: its numbers, its queue, its policy.

use alloc::boxed::Box;

use crate::policy::{self, BatchPolicy, Close, Decision};
use crate::queue::{Queue, QueueView};
use crate::rate::Rate;
use crate::{Budget, CloseReason, ModelConfig, Timestamp};

/// A configured model.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) queue: Queue,
    /// Requests sent to workers lately.
    pub(crate) served: Rate,
    /// Until when the policy waits; kept in step with `Scheduler::wakes`.
    pub(crate) wake: Option<Timestamp>,
    policy: Box<dyn BatchPolicy>,
}

impl Model {
    pub(crate) fn new(config: ModelConfig) -> Self {
        let policy = policy::from_config(&config.policy);
        Self { config, queue: Queue::default(), served: Rate::default(), wake: None, policy }
    }

    /// Takes new numbers. What is queued keeps the due time and the time limit it was admitted with.
    pub(crate) fn configure(&mut self, config: ModelConfig) {
        if config.policy != self.config.policy {
            self.policy = policy::from_config(&config.policy);
        }
        self.config = config;
    }

    /// What one batch may hold under a credit: the model's own limits bind as well.
    pub(crate) fn budget(&self, credit: Budget) -> Budget {
        Budget {
            rows: credit.rows.min(self.config.batch_rows_max.get()),
            tokens: credit.tokens.min(self.config.batch_tokens_max.get()),
            bytes: credit.bytes,
        }
    }

    /// Asks the policy about the waiting requests. `None` when nothing waits.
    pub(crate) fn decide(&self, now: Timestamp, budget: Budget, draining: bool) -> Option<Decision> {
        let totals = self.queue.waiting();
        let oldest = self.queue.oldest_waiting()?;
        let view = QueueView { oldest, rows: totals.rows, tokens: totals.tokens, bytes: totals.bytes, budget };
        let at_once = |why| Decision::Close(Close { rows_max: u32::MAX, why });
        Some(match self.policy.decide(now, &view) {
            // Nothing new comes during a drain, so there is nothing to wait for.
            Decision::WaitUntil(_) if draining => at_once(CloseReason::Drained),
            Decision::WaitUntil(until) if until <= now => at_once(CloseReason::Delay),
            decision @ (Decision::Close(_) | Decision::WaitUntil(_)) => decision,
        })
    }

    /// When a request queued now has waited too long.
    pub(crate) fn queue_timeout(&self, now: Timestamp) -> Timestamp {
        now + self.config.queue_time_max
    }
}
