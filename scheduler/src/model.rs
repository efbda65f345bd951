//! One configured model: its numbers, its queue, its policy.

use alloc::boxed::Box;
use alloc::vec::Vec;

use core::time::Duration;

use crate::cost::{Costs, Size};
use crate::doubt::Doubt;
use crate::policy::{self, BatchPolicy, Close, Decision, View};
use crate::pools::Heads;
use crate::queue::{Lead, Queue};
use crate::rate::{Rate, Refused};
use crate::shares::Shares;
use crate::time::part_of;
use crate::waits::WaitClock;
use crate::{Budget, CloseReason, ModelConfig, OnLate, RequestId, Timestamp, WorkerId};

/// What a batch counts at least, so that those of unknown cost count as well.
const TIME_MIN: Duration = Duration::from_micros(100);
/// Batches of late requests take such a part of the objective.
const LATE_PARTS: u32 = 8;
/// And probes at most such a part.
const PROBE_PARTS: u32 = 2;

/// A configured model.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) queue: Queue,
    /// Requests sent to workers lately.
    pub(crate) served: Rate,
    /// Requests shed lately.
    pub(crate) refused: Refused,
    /// What batches of it take.
    pub(crate) costs: Costs,
    /// Who got how much of them lately.
    pub(crate) shares: Shares,
    /// Whether workers were asked for so much, when its last request came, that waiting for fuller batches pays.
    pub(crate) is_busy: bool,
    /// Until when the policy waits; kept in step with `Scheduler::wakes`.
    pub(crate) wake: Option<Timestamp>,
    /// What its queue waits for, and did.
    pub(crate) waits: WaitClock,
    /// Until when it is in no hurry, because it had to give requests up; zero if it had not.
    pub(crate) pressed_until: Timestamp,
    /// What it got of the workers' time, as far as those count it that had to.
    pub(crate) got: Duration,
    /// What the lists of workers say of it.
    pub(crate) listed: Heads,
    /// Unless there may be a pool of workers that does not know.
    pub(crate) is_listed_everywhere: bool,
    /// Whether it has a request that can still be on time, as of when it was listed last.
    pub(crate) is_active: bool,
    /// Whether to believe that no deadline can be met.
    pub(crate) doubt: Doubt,
    policy: Box<dyn BatchPolicy>,
}

impl Model {
    pub(crate) fn new(config: ModelConfig) -> Self {
        let policy = policy::from_config(&config.policy);
        let known = config.cost.map(Into::into);
        Self {
            config,
            queue: Queue::default(),
            served: Rate::default(),
            refused: Refused::default(),
            costs: Costs::new(known),
            shares: Shares::default(),
            is_busy: false,
            wake: None,
            waits: WaitClock::default(),
            pressed_until: Timestamp::ZERO,
            got: Duration::ZERO,
            listed: Heads::default(),
            is_listed_everywhere: false,
            is_active: false,
            doubt: Doubt::default(),
            policy,
        }
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
    pub(crate) fn decide(&self, view: &View<'_>, draining: bool) -> Option<Decision> {
        self.queue.oldest_waiting()?;
        Some(match self.policy.decide(view) {
            // Only late ones are left.
            Decision::Close(close) if close.time_max.is_some() && self.queue.on_time().requests == 0 => {
                Decision::Close(Close { time_max: Some(self.late_time_max()), why_time: CloseReason::Late, ..close })
            }
            // Nothing new comes during a drain, so there is nothing to wait for.
            Decision::WaitUntil(_) if draining => Decision::Close(Close::all(CloseReason::Drained)),
            Decision::WaitUntil(until) if until <= view.now => Decision::Close(Close::all(CloseReason::Delay)),
            decision @ (Decision::Close(_) | Decision::WaitUntil(_)) => decision,
        })
    }

    /// What it waits with for workers, of which so many hold it.
    pub(crate) fn heads(&self, workers: u32) -> Heads {
        let earlier = self.policy.earlier(&self.queue, &self.costs, self.config.objective, workers);
        let leads = self.queue.leads(self.wake.is_some());
        leads.map(|lead| {
            let start = match lead? {
                Lead::Request(rank) if !rank.late => (rank.due - earlier).max(self.pressed_until),
                Lead::Request(rank) | Lead::Part(rank) => rank.due,
            };
            Some((start, self.got, lead?.rank()))
        })
    }

    /// A batch of it was sent that takes so long. `fair` is what those begin with that had to give requests up.
    pub(crate) fn count_got(&mut self, time: Duration, fair: &mut Duration) {
        if self.pressed_until > Timestamp::ZERO {
            *fair = self.got.max(*fair);
        }
        self.got = self.got.max(*fair).saturating_add(time.max(TIME_MIN));
        self.pressed_until = Timestamp::ZERO;
    }

    /// Learns how long a batch took.
    pub(crate) fn observe(&mut self, worker: WorkerId, size: Size, taken: Duration) {
        self.doubt.settle();
        self.costs.observe(worker, size, taken);
        self.policy.observe(size, taken, self.config.objective);
    }

    /// Asks the policy who cannot be on time any more.
    pub(crate) fn give_up(&self, view: &View<'_>, free: &dyn Fn() -> Vec<(Timestamp, WorkerId)>) -> Vec<RequestId> {
        self.policy.give_up(view, free)
    }

    /// What becomes of them; `None` where the policy knows no lateness.
    pub(crate) fn on_late(&self) -> Option<OnLate> {
        self.policy.on_late()
    }

    /// Whether its policy wants slow batches run again, and their workers suspected.
    pub(crate) fn minds_slow_batches(&self) -> bool {
        self.policy.minds_slow_batches()
    }

    /// How long a batch of late requests may take: whoever comes meanwhile waits for it.
    pub(crate) fn late_time_max(&self) -> Duration {
        self.config.objective / LATE_PARTS
    }

    /// How long a probe may hold up who asks for this model, who must have time left after it; and how long one of it
    /// may take without being near to what counts as hanging.
    pub(crate) fn probe_time_max(&self) -> Duration {
        self.config.objective.min(self.config.batch_time_max) / PROBE_PARTS
    }

    /// Whether less than half of the queue is late.
    pub(crate) fn has_room_for_late(&self) -> bool {
        self.queue.late().requests < u64::from(self.config.queue_requests_max.get().div_ceil(2))
    }

    /// Whether the first request that can still be on time would be late on this worker, to a policy that minds.
    pub(crate) fn is_late_on(&self, worker: WorkerId, now: Timestamp) -> bool {
        let first = self.queue.first_on_time().filter(|_| self.on_late().is_some());
        first.is_some_and(|first| now + self.costs.high(worker, first.cost.into()) > first.rank.due)
    }

    /// Whether a worker takes clearly longer than the others, or has to bring the weights onto its device first.
    pub(crate) fn is_slow(&self, worker: WorkerId) -> bool {
        let one = Size { rows: 1, ..Size::default() };
        !self.costs.page_in(worker).is_zero() || self.costs.expected(worker, one) > self.costs.typical(one) / 2 * 3
    }

    /// The time of a worker that so much takes in a large batch: its own, and its part of what each batch costs.
    pub(crate) fn time_asked(&self, size: Size) -> Duration {
        let base = self.costs.typical(Size::default());
        let own = self.costs.typical(size).saturating_sub(base);
        let batch = (self.config.objective / 2).max(base * 2);
        part_of(own, batch, batch - base)
    }

    /// When a request queued now has waited too long.
    pub(crate) fn queue_timeout(&self, now: Timestamp) -> Timestamp {
        now + self.config.queue_time_max
    }
}
