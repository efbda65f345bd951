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

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use super::View;
use crate::cost::Size;
use crate::queue::Item;
use crate::{Class, RequestId, TenantId, Timestamp, WorkerId};

/// A model's requests that could be on time.
pub(super) struct Round<'a> {
    view: &'a View<'a>,
}

/// Some of them in the order of the queue, and what a prefix of them costs.
struct Line {
    /// Of each request, what all up to it and with it take.
    upto: Vec<Size>,
    due: Vec<Timestamp>,
}

impl<'a> Round<'a> {
    pub(super) fn new(view: &'a View<'a>) -> Self {
        Self { view }
    }

    /// Whether all fit one batch of the worker that is free, within the time that batches have.
    pub(super) fn fits_at_once(&self, time_max: Duration) -> bool {
        let View { now, queue, budget, worker, costs, company, .. } = self.view;
        let (totals, Some(first)) = (company.with(queue.on_time().size()), queue.on_time_items().next()) else {
            return true;
        };
        if totals.rows > u64::from(budget.rows) || totals.tokens > u64::from(budget.tokens) {
            return false;
        }
        let time = costs.high(*worker, totals);
        time <= time_max && *now + time <= first.rank.due
    }

    /// Whether all would be on time even if the workers began only when the last of them is free, without looking at each.
    pub(super) fn surely_fits(&self, free: &[(Timestamp, WorkerId)], time_max: Duration) -> bool {
        let View { queue, budget, worker, costs, company, .. } = self.view;
        let due =
            Class::ALL.into_iter().filter_map(|class| queue.on_time_of(class).next()).map(|item| item.rank.due).min();
        let (Some(due), Some((begin, _))) = (due, free.last()) else { return true };
        let (totals, workers) = (company.with(queue.on_time().size()), free.len() as u64);
        let time = costs.high(*worker, totals);
        // Batches are cut by rows, by tokens and by time. Each is taken to leave half of its room.
        let by_time = time.as_nanos() / time_max.as_nanos().max(1);
        let by_time = u64::try_from(by_time).unwrap_or(u64::MAX);
        let by_rows = totals.rows / u64::from(budget.rows.max(1));
        let by_tokens = totals.tokens / u64::from(budget.tokens.max(1));
        let batches = (by_time.max(by_rows).max(by_tokens) + 1).saturating_mul(2);
        let base = costs.high(*worker, Size::default());
        let work = time.as_nanos() + base.as_nanos() * u128::from(batches);
        let each = Duration::from_nanos(u64::try_from(work / u128::from(workers)).unwrap_or(u64::MAX));
        *begin + each + time_max <= due
    }

    /// Who must go.
    pub(super) fn victims(self, free: &[(Timestamp, WorkerId)]) -> Vec<RequestId> {
        let items: Vec<&Item> = self.view.queue.on_time_items().collect();
        if self.fits(&Line::new(items.iter().copied()), 0, free) {
            return Vec::new();
        }
        let is_of_one = |item: &Item| (item.tenant, item.rank.class);
        let are_alike = items.windows(2).all(|pair| is_of_one(pair[0]) == is_of_one(pair[1]));
        if are_alike { self.heads(&items, free) } else { self.by_tenant(&items, free) }
    }

    /// The first ones.
    fn heads(&self, items: &[&Item], free: &[(Timestamp, WorkerId)]) -> Vec<RequestId> {
        let line = Line::new(items.iter().copied());
        let count = least(items.len(), |count| self.fits(&line, count, free));
        items[..count].iter().map(|item| item.rank.id).collect()
    }

    /// The first ones of whoever has the most.
    fn by_tenant(&self, items: &[&Item], free: &[(Timestamp, WorkerId)]) -> Vec<RequestId> {
        let order = self.order(items);
        let without = |count: usize| {
            let gone: BTreeSet<RequestId> = order[..count].iter().copied().collect();
            Line::new(items.iter().copied().filter(move |item| !gone.contains(&item.rank.id)))
        };
        let count = least(items.len(), |count| self.fits(&without(count), 0, free));
        order[..count].to_vec()
    }

    /// Everybody, in the order in which they would go: at each step the tenant that got and asks for the most gives up, of
    /// its least urgent class, the one that has the least time left.
    fn order(&self, items: &[&Item]) -> Vec<RequestId> {
        let time = |item: &Item| self.view.costs.typical(item.cost.into());
        let mut items = items.to_vec();
        items.sort_unstable_by_key(|item| (Reverse(item.rank.class), item.rank));
        let mut queues = BTreeMap::<TenantId, (Duration, VecDeque<&Item>)>::new();
        for item in &items {
            let got = || (self.view.shares.of(self.view.now, item.tenant), VecDeque::new());
            let (sum, queue) = queues.entry(item.tenant).or_insert_with(got);
            *sum += time(item);
            queue.push_back(item);
        }
        let mut most: BTreeSet<(Duration, TenantId)> =
            queues.iter().map(|(tenant, (sum, _))| (*sum, *tenant)).collect();
        let mut order = Vec::with_capacity(items.len());
        while let Some((sum, tenant)) = most.pop_last() {
            let Some(item) = queues.get_mut(&tenant).and_then(|(_, queue)| queue.pop_front()) else { continue };
            order.push(item.rank.id);
            most.insert((sum.saturating_sub(time(item)), tenant));
        }
        order
    }

    /// Whether all but the first so many fit into one round.
    fn fits(&self, line: &Line, mut next: usize, free: &[(Timestamp, WorkerId)]) -> bool {
        let mut free: VecDeque<(Timestamp, WorkerId)> = free.iter().copied().collect();
        while next < line.due.len() {
            let Some((start, worker)) = free.pop_front() else { return false };
            let (taken, is_full) = self.prefix(line, next, start, worker);
            if taken == 0 {
                // Too slow a worker for those, or too late.
                continue;
            }
            if is_full {
                // The budget closed it, not the time: its worker may be through in time for another.
                let whole = self.view.company.with(line.between(next, next + taken));
                let end = start + self.view.costs.expected(worker, whole);
                free.insert(free.partition_point(|other| *other <= (end, worker)), (end, worker));
            }
            next += taken;
        }
        true
    }

    /// How many from `first` on a batch that starts then can take so that all are on time, and whether it is the budget
    /// that ends it.
    fn prefix(&self, line: &Line, first: usize, start: Timestamp, worker: WorkerId) -> (usize, bool) {
        let budget = self.view.budget;
        let left = line.due[first].since(start);
        let in_budget = |size: Size| size.rows <= u64::from(budget.rows) && size.tokens <= u64::from(budget.tokens);
        let in_time = |size: Size| self.view.costs.high(worker, size) <= left;
        let rest = line.due.len() - first;
        let taken = rest
            - least(rest, |cut| {
                let end = line.due.len() - cut;
                let size = self.view.company.with(line.between(first, end));
                end == first || in_time(size) && (in_budget(size) || end == first + 1)
            });
        let end = first + taken;
        (taken, end < line.due.len() && in_time(self.view.company.with(line.between(first, end + 1))))
    }
}

impl Line {
    fn new<'a>(items: impl Iterator<Item = &'a Item>) -> Self {
        let (mut upto, mut due, mut sum) = (Vec::new(), Vec::new(), Size::default());
        for item in items {
            sum.add(item.cost.into());
            upto.push(sum);
            due.push(item.rank.due);
        }
        Self { upto, due }
    }

    /// What requests from one on and before the other take.
    fn between(&self, from: usize, to: usize) -> Size {
        let before = |index: usize| if index == 0 { Size::default() } else { self.upto[index - 1] };
        let mut size = before(to);
        size.remove(before(from));
        size
    }
}

/// The least number for which it holds, up to `end`, for which it does. Where it holds for one it must for all above.
fn least(end: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low.midpoint(high);
        if holds(middle) { high = middle } else { low = middle + 1 }
    }
    low
}
