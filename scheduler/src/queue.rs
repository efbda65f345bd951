//! The queue of one model: what waits, in which order, and what waits apart because it is suspect.
//!
//! Nothing here knows of workers, credits or time limits. The order is [`Rank`] and nothing else, so that a request that
//! comes back after a loss stands where it stood before.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::arrivals::Arrivals;
use crate::batch::Draft;
use crate::cost::Size;
use crate::policy::Close;
use crate::turns::ByClass;
use crate::{Class, CloseReason, Cost, RequestId, TenantId, Timestamp};

/// The place of a request in the order of its queue: who can still be on time first, then class, due time and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// Given up as too late for its objective. It runs when nobody waits who can still be on time.
    pub(crate) late: bool,
    pub(crate) class: Class,
    /// The earlier of the client's deadline and arrival plus objective.
    pub(crate) due: Timestamp,
    pub(crate) id: RequestId,
}

impl Rank {
    /// Not after any rank of the class.
    const fn first_of(late: bool, class: Class) -> Self {
        Self { late, class, due: Timestamp::ZERO, id: RequestId(0) }
    }

    /// Not before any rank of the class.
    const fn last_of(late: bool, class: Class) -> Self {
        Self { late, class, due: Timestamp::MAX, id: RequestId(u64::MAX) }
    }

    /// Not after any rank that is late, and after all others.
    const FIRST_LATE: Self = Self::first_of(true, Class::Interactive);
}

/// One queued request, as far as a queue cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) rank: Rank,
    pub(crate) tenant: TenantId,
    pub(crate) arrived: Timestamp,
    /// The client's.
    pub(crate) deadline: Timestamp,
    pub(crate) cost: Cost,
}

/// Sums over queued requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    pub(crate) rows: u64,
    pub(crate) tokens: u64,
    /// Of the tokens of each row.
    pub(crate) squares: u64,
    pub(crate) bytes: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, cost: Cost) {
        self.requests += 1;
        self.rows += u64::from(cost.rows);
        self.tokens += u64::from(cost.tokens);
        self.squares = self.squares.wrapping_add(cost.tokens_squared);
        self.bytes = self.bytes.saturating_add(cost.bytes);
    }

    pub(crate) fn remove(&mut self, cost: Cost) {
        self.requests -= 1;
        self.rows -= u64::from(cost.rows);
        self.tokens -= u64::from(cost.tokens);
        self.squares = self.squares.wrapping_sub(cost.tokens_squared);
        self.bytes -= cost.bytes;
    }

    /// What the time of a batch of them all depends on.
    pub(crate) fn size(&self) -> Size {
        Size { rows: self.rows, tokens: self.tokens, squares: self.squares }
    }
}

impl core::ops::Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            rows: self.rows + other.rows,
            tokens: self.tokens + other.tokens,
            squares: self.squares.wrapping_add(other.squares),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// The requests of one model that wait for a worker.
///
/// Those in `waiting` may share a batch with each other. Those in `parts` may share one only inside their part: a part
/// is what is left of a batch that failed, and one of its members may be what broke it.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<Rank, Item>,
    /// Of `waiting`: a policy counts from the oldest, whatever its rank.
    arrivals: Arrivals,
    /// Of `waiting`: those that can still be on time, and those that are late.
    on_time: Totals,
    late: Totals,
    /// When those that can still be on time arrived, summed up in nanoseconds: how long they waited in all follows.
    arrived: u128,
    /// By the rank of the member that was most urgent when the part was made.
    parts: BTreeMap<Rank, Vec<Item>>,
    part_totals: Totals,
    /// Requests of both kinds, without those that are late.
    by_class: ByClass<u64>,
}

impl Queue {
    pub(crate) fn push(&mut self, item: Item) {
        if item.rank.late {
            self.late.add(item.cost);
        } else {
            self.on_time.add(item.cost);
            self.arrived += u128::from(item.arrived.as_nanos());
            self.by_class[item.rank.class as usize] += 1;
        }
        self.arrivals.push(item.arrived, item.rank);
        self.waiting.insert(item.rank, item);
    }

    /// Takes one request out of the waiting ones.
    pub(crate) fn remove(&mut self, rank: Rank) {
        if let Some(item) = self.waiting.remove(&rank) {
            self.arrivals.remove(rank, |other| self.waiting.contains_key(other));
            if rank.late {
                self.late.remove(item.cost);
            } else {
                self.on_time.remove(item.cost);
                self.arrived -= u128::from(item.arrived.as_nanos());
                self.by_class[rank.class as usize] -= 1;
            }
        }
    }

    /// Adds a part and says under which rank it stands; `None` when it has no members.
    pub(crate) fn push_part(&mut self, members: Vec<Item>) -> Option<Rank> {
        let rank = members.iter().map(|item| item.rank).min()?;
        for item in &members {
            self.part_totals.add(item.cost);
            self.by_class[item.rank.class as usize] += u64::from(!item.rank.late);
        }
        self.parts.insert(rank, members);
        Some(rank)
    }

    /// Takes one request out of its part. The part keeps its place in the order even when its head goes.
    pub(crate) fn remove_member(&mut self, part: Rank, id: RequestId) {
        let Some(members) = self.parts.get_mut(&part) else { return };
        if let Some(at) = members.iter().position(|item| item.rank.id == id) {
            let item = members.remove(at);
            self.part_totals.remove(item.cost);
            self.by_class[item.rank.class as usize] -= u64::from(!item.rank.late);
        }
        if members.is_empty() {
            self.parts.remove(&part);
        }
    }

    /// Moves waiting requests into the draft, those of `lead` first, then the others by rank, until one does not fit.
    /// Says what closed the batch.
    pub(crate) fn fill(&mut self, draft: &mut Draft<'_>, lead: Class, close: Close) -> CloseReason {
        while let Some(item) = self.next_led_by(lead) {
            // Who is late makes nobody wait who is not.
            if item.rank.late && draft.is_on_time {
                break;
            }
            if let Err(full) = draft.offer(item, close.rows_max) {
                return if full == CloseReason::Rows && draft.rows == close.rows_max { close.why } else { full };
            }
            self.remove(item.rank);
        }
        close.why
    }

    /// Moves late requests into the draft, by rank, until one does not fit. Says what closed the batch.
    pub(crate) fn fill_late(&mut self, draft: &mut Draft<'_>) -> CloseReason {
        loop {
            let Some(item) = self.late_items().next().copied() else { return CloseReason::Late };
            if let Err(full) = draft.offer(item, u32::MAX) {
                return full;
            }
            self.remove(item.rank);
        }
    }

    /// Moves a part into the draft, as much of it as fits and at least one request. Returns the rest, which is no
    /// longer queued.
    pub(crate) fn take_part(&mut self, draft: &mut Draft<'_>, part: Rank) -> Vec<Item> {
        let members = self.parts.remove(&part).unwrap_or_default();
        let fitting = members.iter().take_while(|item| draft.offer(**item, u32::MAX).is_ok()).count();
        for item in &members {
            self.part_totals.remove(item.cost);
            self.by_class[item.rank.class as usize] -= u64::from(!item.rank.late);
        }
        members[fitting..].to_vec()
    }

    /// The most urgent waiting request, of one class if one is named.
    pub(crate) fn head(&self, class: Option<Class>) -> Option<Rank> {
        head_of(&self.waiting, class)
    }

    /// The most urgent part, of one class if one is named.
    pub(crate) fn part_head(&self, class: Option<Class>) -> Option<Rank> {
        head_of(&self.parts, class)
    }

    /// When the oldest waiting request arrived.
    pub(crate) fn oldest_waiting(&self) -> Option<Timestamp> {
        self.arrivals.oldest()
    }

    /// When the oldest request, waiting or in a part, arrived.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        let in_parts = self.parts.values().flatten().map(|item| item.arrived);
        in_parts.chain(self.oldest_waiting()).min()
    }

    /// Sums over the waiting requests, those in parts left out.
    pub(crate) fn waiting(&self) -> Totals {
        self.on_time + self.late
    }

    /// Sums over those of the waiting requests that can still be on time.
    pub(crate) fn on_time(&self) -> Totals {
        self.on_time
    }

    /// Sums over those that are late.
    pub(crate) fn late(&self) -> Totals {
        self.late
    }

    /// Those of the waiting requests that can still be on time, by rank.
    pub(crate) fn on_time_items(&self) -> impl Iterator<Item = &Item> {
        self.waiting.range(..Rank::FIRST_LATE).map(|(_, item)| item)
    }

    /// The same of one class.
    pub(crate) fn on_time_of(&self, class: Class) -> impl Iterator<Item = &Item> {
        self.waiting.range(Rank::first_of(false, class)..=Rank::last_of(false, class)).map(|(_, item)| item)
    }

    /// How long they have waited in all, in nanoseconds.
    pub(crate) fn waited(&self, now: Timestamp) -> u128 {
        (u128::from(self.on_time.requests) * u128::from(now.as_nanos())).saturating_sub(self.arrived)
    }

    /// Those that are late, by rank.
    pub(crate) fn late_items(&self) -> impl Iterator<Item = &Item> {
        self.waiting.range(Rank::FIRST_LATE..).map(|(_, item)| item)
    }

    /// Sums over all requests, those in parts included.
    pub(crate) fn totals(&self) -> Totals {
        self.waiting() + self.part_totals
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.parts.is_empty()
    }

    /// Which classes have a request here that can still be on time.
    pub(crate) fn classes(&self) -> ByClass<bool> {
        self.by_class.map(|requests| requests > 0)
    }

    /// How many requests stand before this rank, those in parts counted by their own rank.
    pub(crate) fn position(&self, rank: Rank) -> usize {
        let in_parts = self.parts.values().flatten().filter(|item| item.rank < rank).count();
        self.waiting.range(..rank).count() + in_parts
    }

    /// Every queued request, with the rank of its part if it is in one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Item, Option<Rank>)> {
        let waiting = self.waiting.values().map(|item| (*item, None));
        let parts = self.parts.iter().flat_map(|(part, items)| items.iter().map(|item| (*item, Some(*part))));
        waiting.chain(parts)
    }

    /// Derives every index and sum anew.
    pub(crate) fn assert_invariants(&self) {
        let (mut on_time, mut late, mut part_totals) = (Totals::default(), Totals::default(), Totals::default());
        let (mut by_class, mut arrived) = ([0; Class::ALL.len()], 0);
        for (item, part) in self.iter() {
            by_class[item.rank.class as usize] += u64::from(!item.rank.late);
            match part {
                Some(_) => part_totals.add(item.cost),
                None if item.rank.late => late.add(item.cost),
                None => {
                    on_time.add(item.cost);
                    arrived += u128::from(item.arrived.as_nanos());
                }
            }
        }
        let found = (on_time, late, part_totals, arrived);
        assert_eq!(found, (self.on_time, self.late, self.part_totals, self.arrived), "the sums of the queue");
        assert_eq!(by_class, self.by_class, "requests by class");
        assert!(self.waiting.iter().all(|(rank, item)| *rank == item.rank), "a request stands under its own rank");
        let oldest = self.waiting.values().map(|item| item.arrived).min();
        assert_eq!(oldest, self.arrivals.oldest(), "the oldest of the waiting requests");
        assert!(self.arrivals.len() >= self.waiting.len(), "every waiting request has arrived");
        assert!(self.parts.values().all(|members| !members.is_empty()), "a part has members");
    }

    fn next_led_by(&self, lead: Class) -> Option<Item> {
        let (rank, first) = self.waiting.first_key_value()?;
        if rank.class == lead {
            return Some(*first);
        }
        let led = of_class(&self.waiting, rank.late, lead);
        Some(*led.map_or(first, |(_, item)| item))
    }
}

fn head_of<V>(map: &BTreeMap<Rank, V>, class: Option<Class>) -> Option<Rank> {
    let first = match class {
        Some(class) => {
            // Late ones lead nobody who is not.
            let are_all_late = map.first_key_value().is_some_and(|(rank, _)| rank.late);
            of_class(map, are_all_late, class)
        }
        None => map.first_key_value(),
    };
    first.map(|(rank, _)| *rank)
}

fn of_class<V>(map: &BTreeMap<Rank, V>, late: bool, class: Class) -> Option<(&Rank, &V)> {
    map.range(Rank::first_of(late, class)..=Rank::last_of(late, class)).next()
}
