//! Who cannot be on time: as few as must go, so that all others fit into one round of the workers.
//!
//! A queue that is longer than a round makes everybody in it late, one after the other, each just missing: it is better
//! to give some up, first those who have the least time left, and to run large batches of those who have more. The rule
//! needs no estimate of the load. For one worker it is BentoML's, which cancels heads until the rest fits one batch; Nexus
//! (Shen et al., SOSP 2019) drops early for the same reason.
//!
//! Of several tenants the one that gives up first is the one that got and asks for the most: one within its share loses
//! nothing to a flood. What somebody got counts for about a second, as virtual counters do for ever (Sheng et al.,
//! "Fairness in serving large language models", OSDI 2024).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use super::View;
use super::stretch::Stretch;
use super::victims::Victims;
use crate::cost::Size;
use crate::line::Sum;
use crate::queue::Item;
use crate::{RequestId, Timestamp, WorkerId};

/// A model's requests that could be on time.
pub(super) struct Round<'a> {
    view: &'a View<'a>,
}

impl<'a> Round<'a> {
    pub(super) fn new(view: &'a View<'a>) -> Self {
        Self { view }
    }

    /// Whether all fit one batch of the worker that is free, within the time that batches have.
    pub(super) fn fits_at_once(&self, time_max: Duration) -> bool {
        let View { now, queue, worker, costs, .. } = self.view;
        let Some(due) = queue.first_due() else { return true };
        let whole = self.in_company(queue.on_time().sum());
        let time = costs.high(*worker, whole.size);
        time <= time_max && *now + time <= due && self.is_in_budget(whole)
    }

    /// Whether all would be on time even if the workers began only when the last of them is free, without forming batches.
    ///
    /// Looked at are a quarter more from one time to the next: all of them must be through when the first of those that
    /// came to it is due.
    pub(super) fn surely_fits(&self, free: &[(Timestamp, WorkerId)], time_max: Duration) -> bool {
        let Some((begin, _)) = free.last() else { return false };
        let stretch = Stretch::all(self.view.queue);
        let mut first = 0;
        while first < stretch.len {
            let more = (first / 4).max(self.view.budget.rows.into());
            let end = (first + more).clamp(first + 1, stretch.len);
            let upto = self.in_company(stretch.upto(end));
            if *begin + self.time_at_most(upto, free.len() as u64, time_max)
                > stretch.due_at(first).min(stretch.due_of_others(first, end))
            {
                return false;
            }
            first = end;
        }
        true
    }

    /// Who must go: as few as need be.
    pub(super) fn victims(&self, free: &[(Timestamp, WorkerId)]) -> Vec<RequestId> {
        let queue = self.view.queue;
        let mut order = Victims::new(self.view);
        let (mut victims, mut too_few) = (Vec::<&Item>::new(), 0);
        // Nearly always few must go: twice as many are looked at each time until that is enough.
        while !self.fits(&Stretch::without(queue, &victims), free) {
            too_few = victims.len();
            victims.extend(order.by_ref().take(too_few.max(1)));
            if victims.len() == too_few {
                break;
            }
        }
        let is_enough = |count: usize| self.fits(&Stretch::without(queue, &victims[..count]), free);
        let count = least(too_few, victims.len(), is_enough);
        victims[..count].iter().map(|item| item.rank.id).collect()
    }

    /// Whether all fit into one round.
    fn fits(&self, stretch: &Stretch<'_>, free: &[(Timestamp, WorkerId)]) -> bool {
        let mut placed = Sum::default();
        let mut free: VecDeque<(Timestamp, WorkerId)> = free.iter().copied().collect();
        while placed.requests < stretch.len {
            let Some((start, worker)) = free.pop_front() else { return false };
            let batch = self.batch(stretch, placed, start, worker);
            if batch.taken.requests == 0 {
                // Too slow a worker for those, or too late.
                continue;
            }
            if batch.is_full {
                // The budget closed it, not the time: its worker may be through in time for another.
                let end = start + self.view.costs.expected(worker, self.in_company(batch.taken).size);
                free.insert(free.partition_point(|other| *other <= (end, worker)), (end, worker));
            }
            placed = batch.upto;
        }
        true
    }

    /// What a batch of those after `before` that starts then can take so that all in it are on time.
    fn batch(&self, stretch: &Stretch<'_>, before: Sum, start: Timestamp, worker: WorkerId) -> Planned {
        let first = before.requests;
        let first_due = stretch.due_at(first);
        let is_in_time = |taken: Sum| {
            let due = first_due.min(stretch.due_of_others(first, first + taken.requests));
            start + self.view.costs.high(worker, self.in_company(taken).size) <= due
        };
        let upto = stretch.reach(|upto| {
            if upto.requests <= first {
                return true;
            }
            let taken = upto.minus(before);
            is_in_time(taken) && (taken.requests == 1 || self.is_in_budget(self.in_company(taken)))
        });
        let taken = upto.minus(before);
        let next = stretch.at(upto.requests);
        let is_full = next.is_some_and(|next| is_in_time(taken.plus(Sum::of(next))));
        Planned { taken, upto, is_full }
    }

    /// A bound on the time in which so many workers are through with all of it.
    fn time_at_most(&self, sum: Sum, workers: u64, time_max: Duration) -> Duration {
        let View { budget, worker, costs, .. } = self.view;
        let time = costs.high(*worker, sum.size);
        // Batches are cut by rows, by tokens and by time. Each is taken to leave half of its room.
        let by_time = u64::try_from(time.as_nanos() / time_max.as_nanos().max(1)).unwrap_or(u64::MAX);
        let by_rows = sum.size.rows / u64::from(budget.rows.max(1));
        let by_tokens = sum.size.tokens / u64::from(budget.tokens.max(1));
        let batches = (by_time.max(by_rows).max(by_tokens) + 1).saturating_mul(2);
        let base = costs.high(*worker, Size::default());
        let work = time.as_nanos() + base.as_nanos() * u128::from(batches);
        let each = Duration::from_nanos(u64::try_from(work / u128::from(workers.max(1))).unwrap_or(u64::MAX));
        // Nobody has less than the others by more than one batch.
        let largest = Size {
            rows: sum.size.rows.min(budget.rows.into()),
            tokens: sum.size.tokens.min(budget.tokens.into()),
            squares: sum.size.squares,
        };
        each.saturating_add(costs.high(*worker, largest).min(time_max))
    }

    /// With what others are going to put into the same batch.
    fn in_company(&self, sum: Sum) -> Sum {
        Sum { size: self.view.company.with(sum.size), ..sum }
    }

    fn is_in_budget(&self, sum: Sum) -> bool {
        let budget = self.view.budget;
        let Size { rows, tokens, .. } = sum.size;
        rows <= u64::from(budget.rows) && tokens <= u64::from(budget.tokens) && sum.bytes <= budget.bytes
    }
}

/// A batch that could be formed.
struct Planned {
    taken: Sum,
    /// With all before it.
    upto: Sum,
    /// Whether it is the budget that ends it.
    is_full: bool,
}

/// The least number above `below`, for which it does not hold, up to `end`, for which it does. Where it holds for one it must
/// for all above.
fn least(below: usize, end: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = ((below + 1).min(end), end);
    while low < high {
        let middle = low.midpoint(high);
        if holds(middle) { high = middle } else { low = middle + 1 }
    }
    low
}
