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
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::View;
use crate::cost::Size;
use crate::line::{Line, Sum};
use crate::queue::Item;
use crate::{Class, RequestId, TenantId, Timestamp, WorkerId};

/// A model's requests that could be on time.
pub(super) struct Round<'a> {
    view: &'a View<'a>,
}

/// Some of them by rank, and what they take from one to another.
struct Stretch<'a> {
    sums: Sums<'a>,
    len: u64,
    /// Of each class the position of its first one, and when that one is due.
    classes: Vec<(u64, Timestamp)>,
}

/// Where the sums are known from.
enum Sums<'a> {
    /// The queue itself: these are all of it that can be on time.
    Line(&'a Line),
    /// Some of it: of each, what all up to it and with it take, and when it is due.
    Picked(Vec<(Sum, Timestamp)>),
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
        let stretch = self.all();
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

    /// Who must go.
    pub(super) fn victims(self, free: &[(Timestamp, WorkerId)]) -> Vec<RequestId> {
        let all = self.all();
        if self.fits(&all, 0, free) {
            return Vec::new();
        }
        let items: Vec<&Item> = self.view.queue.on_time_items().collect();
        let is_of_one = |item: &Item| (item.tenant, item.rank.class);
        if items.windows(2).all(|pair| is_of_one(pair[0]) == is_of_one(pair[1])) {
            let count = least(items.len(), |count| self.fits(&all, count as u64, free));
            return items[..count].iter().map(|item| item.rank.id).collect();
        }
        self.by_tenant(&items, free)
    }

    /// The first ones of whoever has the most.
    fn by_tenant(&self, items: &[&Item], free: &[(Timestamp, WorkerId)]) -> Vec<RequestId> {
        let order = self.order(items);
        let without = |count: usize| {
            let mut stays = vec![true; items.len()];
            order[..count].iter().for_each(|place| stays[*place] = false);
            Stretch::picked(items.iter().zip(stays).filter(|(_, stays)| *stays).map(|(item, _)| *item))
        };
        let count = least(items.len(), |count| self.fits(&without(count), 0, free));
        order[..count].iter().map(|place| items[*place].rank.id).collect()
    }

    /// The places of all, in the order in which they would go: at each step the tenant that got and asks for the most gives up, of
    /// its least urgent class, the one that has the least time left.
    fn order(&self, items: &[&Item]) -> Vec<usize> {
        let time = |item: &Item| self.view.costs.typical(item.cost.into());
        let mut queues = BTreeMap::<TenantId, (Duration, VecDeque<usize>)>::new();
        for class in Class::ALL.into_iter().rev() {
            for (place, item) in items.iter().enumerate().filter(|(_, item)| item.rank.class == class) {
                let got = || (self.view.shares.of(self.view.now, item.tenant), VecDeque::new());
                let (sum, queue) = queues.entry(item.tenant).or_insert_with(got);
                *sum += time(item);
                queue.push_back(place);
            }
        }
        let mut most: BTreeSet<(Duration, TenantId)> =
            queues.iter().map(|(tenant, (sum, _))| (*sum, *tenant)).collect();
        let mut order = Vec::with_capacity(items.len());
        while let Some((sum, tenant)) = most.pop_last() {
            let Some(place) = queues.get_mut(&tenant).and_then(|(_, queue)| queue.pop_front()) else { continue };
            order.push(place);
            most.insert((sum.saturating_sub(time(items[place])), tenant));
        }
        order
    }

    /// Whether all but the first so many fit into one round.
    fn fits(&self, stretch: &Stretch<'_>, mut next: u64, free: &[(Timestamp, WorkerId)]) -> bool {
        let mut free: VecDeque<(Timestamp, WorkerId)> = free.iter().copied().collect();
        while next < stretch.len {
            let Some((start, worker)) = free.pop_front() else { return false };
            let batch = self.batch(stretch, next, start, worker);
            if batch.taken.requests == 0 {
                // Too slow a worker for those, or too late.
                continue;
            }
            if batch.is_full {
                // The budget closed it, not the time: its worker may be through in time for another.
                let end = start + self.view.costs.expected(worker, self.in_company(batch.taken).size);
                free.insert(free.partition_point(|other| *other <= (end, worker)), (end, worker));
            }
            next += batch.taken.requests;
        }
        true
    }

    /// What a batch from `first` on that starts then can take so that all in it are on time.
    fn batch(&self, stretch: &Stretch<'_>, first: u64, start: Timestamp, worker: WorkerId) -> Planned {
        let before = stretch.upto(first);
        let first_due = stretch.due_at(first);
        let is_in_time = |taken: Sum| {
            let due = first_due.min(stretch.due_of_others(first, first + taken.requests));
            start + self.view.costs.high(worker, self.in_company(taken).size) <= due
        };
        let end = stretch.reach(|upto| {
            if upto.requests <= first {
                return true;
            }
            let taken = upto.minus(before);
            is_in_time(taken) && (taken.requests == 1 || self.is_in_budget(self.in_company(taken)))
        });
        let is_full = end.requests < stretch.len && is_in_time(stretch.upto(end.requests + 1).minus(before));
        Planned { taken: end.minus(before), is_full }
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

    fn all(&self) -> Stretch<'a> {
        let queue = self.view.queue;
        Stretch { sums: Sums::Line(queue.line()), len: queue.on_time().requests, classes: queue.firsts().collect() }
    }
}

/// A batch that could be formed.
struct Planned {
    taken: Sum,
    /// Whether it is the budget that ends it.
    is_full: bool,
}

impl<'a> Stretch<'a> {
    fn picked(items: impl Iterator<Item = &'a Item>) -> Self {
        let (mut picked, mut classes, mut class, mut sum) = (Vec::new(), Vec::new(), None, Sum::default());
        for item in items {
            if class.replace(item.rank.class) != Some(item.rank.class) {
                classes.push((sum.requests, item.rank.due));
            }
            sum = sum.plus(Sum::of(item));
            picked.push((sum, item.rank.due));
        }
        Self { len: sum.requests, sums: Sums::Picked(picked), classes }
    }

    /// What the first so many take.
    fn upto(&self, end: u64) -> Sum {
        self.reach(|sum| sum.requests <= end)
    }

    /// The largest sum of the first ones for which it holds.
    fn reach(&self, holds: impl Fn(Sum) -> bool) -> Sum {
        match &self.sums {
            Sums::Line(line) => line.reach(|sum| sum.requests <= self.len && holds(sum)),
            Sums::Picked(picked) => {
                let count = picked.partition_point(|(sum, _)| holds(*sum));
                count.checked_sub(1).map_or(Sum::default(), |last| picked[last].0)
            }
        }
    }

    /// When the one that so many stand before is due.
    fn due_at(&self, position: u64) -> Timestamp {
        let due = match &self.sums {
            Sums::Line(line) => line.at(position).map(|item| item.rank.due),
            Sums::Picked(picked) => usize::try_from(position).ok().and_then(|at| picked.get(at)).map(|(_, due)| *due),
        };
        due.unwrap_or(Timestamp::MAX)
    }

    /// When the earliest after `first` and before `end` that may be due before it is due: the first one of another class.
    fn due_of_others(&self, first: u64, end: u64) -> Timestamp {
        let others = self.classes.iter().filter(|(at, _)| (first + 1..end).contains(at)).map(|(_, due)| *due);
        others.min().unwrap_or(Timestamp::MAX)
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
