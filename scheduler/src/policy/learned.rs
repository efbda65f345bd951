//! Learns what batches cost and lets the objective decide.
//!
//! **When.** A batch that fills its time goes at once, and so does anything while workers are mostly idle. Else an idle
//! worker waits until the queued requests have waited, in all, as long as the batch that is saved costs by itself, times
//! the price of waiting: that is renting skis until the rent equals their price, at most twice as dear as knowing the
//! future (Dooly, Goldman and Scott, "On-line analysis of the TCP acknowledgment delay problem", J. ACM 2001).
//!
//! **How large.** A batch takes no longer than the first of those in it has left. With W workers that take turns, a request
//! that just misses a batch waits for a Wth of one; batches of `objective · W / (W + 1)` would keep every such request on
//! time, and cost a lone worker 5 % of what it can take under overload. They may take `2W / (2W + 1)` of it, which costs 1 %.
//!
//! **How many at once.** What waits is spread over the workers that are idle, as long as each part is worth a batch of its
//! own. While workers are mostly idle a part is worth it that saves as much waiting, in all, as a batch costs by itself,
//! times the price of waiting; else one of which a batch's own cost is a twentieth.
//!
//! **Who is late.** See [`round`](super::round).

use alloc::vec::Vec;
use core::time::Duration;

use super::round::Round;
use super::{BatchPolicy, Close, Decision, View};
use crate::cost::{Costs, Size};
use crate::queue::Queue;
use crate::{CloseReason, OnLate, RequestId, Timestamp, WorkerId};

/// A batch's own cost is such a part of a batch that is large enough to run beside others.
const KNEE_PARTS: u32 = 20;

/// Waits by price, fills by time.
#[derive(Debug)]
pub(super) struct Learned {
    pub(super) wait_price: u32,
    pub(super) waits_when_idle: bool,
    pub(super) on_late: OnLate,
}

impl BatchPolicy for Learned {
    fn decide(&self, view: &View<'_>) -> Decision {
        if !view.costs.is_known() {
            return Decision::Close(Close::all(CloseReason::Drained));
        }
        if let Some(until) = view.hold_until.or_else(|| better_worker(view)) {
            return Decision::WaitUntil(until);
        }
        let time_max = time_max(view.objective, view.workers);
        let close = |why| {
            let close = Close { time_max: Some(time_max), ..Close::all(why) };
            let part = self.part(view).filter(|part| *part < time_max);
            Decision::Close(part.map_or(close, |part| Close {
                time_max: Some(part),
                why_time: CloseReason::Spread,
                ..close
            }))
        };
        // Those that are late can fill a batch up at once, where they do not have turns of their own.
        let are_all_on_time = view.is_sharing || view.queue.late().requests == 0;
        // What others have begun costs its base anyway.
        let goes_anyway = !are_all_on_time || !view.company.is_none();
        if self.wait_price == 0 || goes_anyway || !(view.is_busy || self.waits_when_idle) {
            return close(CloseReason::Drained);
        }
        match self.wait_until(view, time_max) {
            Some(until) if until > view.now => Decision::WaitUntil(until),
            Some(_) => close(CloseReason::Delay),
            None => close(CloseReason::Drained),
        }
    }

    fn give_up(&self, view: &View<'_>, free: &dyn Fn() -> Vec<(Timestamp, WorkerId)>) -> Vec<RequestId> {
        // What is known from elsewhere is no ground to refuse anybody: who is refused teaches nothing better.
        if !view.costs.is_proven() {
            return Vec::new();
        }
        let round = Round::new(view);
        let time_max = time_max(view.objective, view.workers);
        if round.fits_at_once(time_max) {
            return Vec::new();
        }
        let free = free();
        if round.surely_fits(&free, time_max) { Vec::new() } else { round.victims(&free) }
    }

    fn earlier(&self, queue: &Queue, costs: &Costs, objective: Duration, workers: u32) -> Duration {
        costs.high_anywhere(queue.on_time().size()).min(time_max(objective, workers))
    }

    fn minds_slow_batches(&self) -> bool {
        true
    }

    fn on_late(&self) -> Option<OnLate> {
        Some(self.on_late)
    }
}

impl Learned {
    /// How long a batch should take when what waits is spread over the idle workers; `None` when it should not be spread.
    fn part(&self, view: &View<'_>) -> Option<Duration> {
        let on_time = view.queue.on_time();
        let time = |size| view.costs.high(view.worker, size);
        let base = time(Size::default());
        let own = time(on_time.size()).saturating_sub(base);
        // k parts cost k bases, and those in them wait for a kth of the whole: least when what is in a part takes the
        // root of a base times the price times what one request takes.
        let least = if view.is_busy {
            base * (KNEE_PARTS - 1)
        } else {
            let one = own.as_nanos() / u128::from(on_time.requests.max(1));
            let root = (base.as_nanos() * u128::from(self.wait_price) * one).isqrt().max(one);
            Duration::from_nanos(u64::try_from(root).unwrap_or(u64::MAX))
        };
        if on_time.requests < 2 || own <= least {
            return None;
        }
        let parts = own.as_nanos() / least.as_nanos().max(1) + 1;
        let idle = view.idle.up_to(usize::try_from(parts).unwrap_or(usize::MAX));
        // The last one has the rest of the queue to itself.
        (idle > 1).then(|| base + least.max(own / u32::try_from(idle).unwrap_or(u32::MAX)))
    }

    /// Until when waiting pays; `None` when there is nothing to gain: the batch is full, or only late ones wait.
    fn wait_until(&self, view: &View<'_>, time_max: Duration) -> Option<Timestamp> {
        let on_time = view.queue.on_time();
        let requests = on_time.requests;
        let due = view.queue.first_due()?;
        if on_time.rows >= u64::from(view.budget.rows) || on_time.tokens >= u64::from(view.budget.tokens) {
            return None;
        }
        let size = on_time.size();
        let average = |sum: u64| sum.div_ceil(requests.max(1));
        let grown = Size {
            rows: size.rows + average(size.rows),
            tokens: size.tokens + average(size.tokens),
            squares: size.squares.saturating_add(average(size.squares)),
        };
        let time = view.costs.high(view.worker, grown);
        if time > time_max {
            return None;
        }
        // The rent so far, and what each further moment adds to it.
        let base = view.costs.typical(Size::default()).as_nanos();
        let price = base * u128::from(self.wait_price);
        let left = price.saturating_sub(view.queue.waited(view.now)) / u128::from(requests.max(1));
        let paid = view.now + Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX));
        Some(paid.min(due - time))
    }
}

/// Where the first request would be late on this worker although it can still be on time: until when another may come for
/// it. Who cannot be on time anywhere was given up before.
fn better_worker(view: &View<'_>) -> Option<Timestamp> {
    let first = view.queue.first_on_time()?;
    let is_late = view.now + view.costs.high(view.worker, first.cost.into()) > first.rank.due;
    (is_late && view.costs.is_proven() && view.workers > 1).then_some(first.rank.due)
}

/// The longest a batch may take, so that who just misses it can still be on time after it.
fn time_max(objective: Duration, workers: u32) -> Duration {
    let workers = workers.max(1);
    objective / (2 * workers + 1) * (2 * workers)
}
