//! The queue of one model: what waits, in which order, and what waits apart because it is suspect.
//!
//! Nothing here knows of workers, credits or time limits. The order is [`Rank`] and nothing else, so that a request that
//! comes back after a loss stands where it stood before.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::vec::Vec;

use crate::arrivals::Arrivals;
use crate::batch::Draft;
use crate::cost::Size;
use crate::line::{Line, Sum};
use crate::policy::Close;
use crate::pools::LANES;
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
    pub(crate) const fn first_of(late: bool, class: Class) -> Self {
        Self { late, class, due: Timestamp::ZERO, id: RequestId(0) }
    }
}

/// What leads a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lead {
    Part(Rank),
    Request(Rank),
}

impl Lead {
    pub(crate) fn rank(&self) -> Rank {
        match self {
            Self::Part(rank) | Self::Request(rank) => *rank,
        }
    }
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

    /// What a budget bounds of them.
    pub(crate) fn sum(&self) -> Sum {
        Sum { requests: self.requests, size: self.size(), bytes: self.bytes }
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
    waiting: Line,
    /// Of `waiting`: a policy counts from the oldest, whatever its rank.
    arrivals: Arrivals,
    /// Of `waiting`: those that can still be on time, and those that are late.
    on_time: Totals,
    late: Totals,
    /// Of `on_time`, by whose they are. Nobody has none.
    tenants: BTreeMap<TenantId, Totals>,
    /// When those that can still be on time arrived, summed up in nanoseconds: how long they waited in all follows.
    arrived: u128,
    /// By the rank of the member that was most urgent when the part was made.
    parts: BTreeMap<Rank, Vec<Item>>,
    part_totals: Totals,
    /// It was a part's turn, and a worker is held until it has nothing else in hand: until then no other is asked for one.
    are_parts_held: bool,
    /// Requests of both kinds, without those that are late.
    by_class: ByClass<u64>,
}

impl Queue {
    pub(crate) fn push(&mut self, item: Item) {
        if item.rank.late {
            self.late.add(item.cost);
        } else {
            self.on_time.add(item.cost);
            self.tenants.entry(item.tenant).or_default().add(item.cost);
            self.arrived += u128::from(item.arrived.as_nanos());
            self.by_class[item.rank.class as usize] += 1;
        }
        self.arrivals.push(item.arrived, item.rank.id);
        self.waiting.insert(item);
    }

    /// Takes one request out of the waiting ones.
    pub(crate) fn remove(&mut self, rank: Rank) {
        if let Some(item) = self.waiting.remove(rank) {
            self.leave(&item);
        }
    }

    /// One that was taken out of the line leaves the sums.
    fn leave(&mut self, item: &Item) {
        let rank = item.rank;
        self.arrivals.remove(item.arrived, rank.id);
        if rank.late {
            self.late.remove(item.cost);
        } else {
            self.on_time.remove(item.cost);
            if let Entry::Occupied(mut entry) = self.tenants.entry(item.tenant) {
                entry.get_mut().remove(item.cost);
                if entry.get().requests == 0 {
                    entry.remove();
                }
            }
            self.arrived -= u128::from(item.arrived.as_nanos());
            self.by_class[rank.class as usize] -= 1;
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
        let Some(first) = self.waiting.first().map(|first| first.rank) else { return close.why };
        let led = Rank::first_of(first.late, lead);
        let mut full = None;
        if first.class != lead && self.first_of(first.late, lead).is_some() {
            let from = self.waiting.before(led).requests;
            full =
                self.take(draft, from, close.rows_max, |item| item.rank.late == first.late && item.rank.class == lead);
        }
        // Who is late makes nobody wait who is not.
        full = full.or_else(|| self.take(draft, 0, close.rows_max, |item| item.rank.late == first.late));
        match full {
            Some(CloseReason::Rows) if draft.rows == close.rows_max => close.why,
            Some(full) => full,
            None => close.why,
        }
    }

    /// Moves late requests into the draft, by rank, until one does not fit. Says what closed the batch.
    pub(crate) fn fill_late(&mut self, draft: &mut Draft<'_>) -> CloseReason {
        self.take(draft, self.on_time.requests, u32::MAX, |_| true).unwrap_or(CloseReason::Late)
    }

    /// Moves requests from a position on into the draft, as long as they are `wanted`, until one does not fit, and says
    /// what that one does not fit.
    fn take(
        &mut self,
        draft: &mut Draft<'_>,
        from: u64,
        rows_max: u32,
        wanted: impl Fn(&Item) -> bool,
    ) -> Option<CloseReason> {
        let mut full = None;
        let mut taken = Vec::new();
        for item in self.waiting.iter_from(from).take_while(|item| wanted(item)) {
            if let Err(why) = draft.offer(*item, rows_max) {
                full = Some(why);
                break;
            }
            taken.push(*item);
        }
        self.waiting.cut(from, taken.len() as u64);
        taken.iter().for_each(|item| self.leave(item));
        full
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
        let first = self.waiting.first()?;
        let of_class = class.map_or(Some(first), |class| {
            // Late ones lead nobody who is not.
            self.first_of(first.rank.late, class)
        });
        of_class.map(|item| item.rank)
    }

    /// The most urgent part, of one class if one is named; none while a worker is held for it.
    pub(crate) fn part_head(&self, class: Option<Class>) -> Option<Rank> {
        let mut parts = self.parts.keys().filter(|_| !self.are_parts_held);
        parts.find(|rank| class.is_none_or(|class| rank.class == class)).copied()
    }

    /// The most urgent part, whether or not a worker is held for it.
    pub(crate) fn first_part(&self) -> Option<Rank> {
        self.parts.keys().next().copied()
    }

    /// A worker is held for the parts, or no longer.
    pub(crate) fn hold_parts(&mut self, are_held: bool) {
        self.are_parts_held = are_held;
    }

    /// Whether a worker is held for the parts.
    pub(crate) fn are_parts_held(&self) -> bool {
        self.are_parts_held
    }

    /// What leads the queue in each class and of those that are late: a part, or unless the policy `waits` a request.
    pub(crate) fn leads(&self, waits: bool) -> [Option<Lead>; LANES] {
        let mut leads = [None; LANES];
        for class in Class::ALL {
            // A part keeps its place even when its first member is gone.
            let part = self.part_head(Some(class)).map(Lead::Part);
            let has_waiting = !waits && self.by_class[class as usize] > 0;
            let first =
                has_waiting.then(|| self.first_of(false, class)).flatten().map(|first| Lead::Request(first.rank));
            leads[class as usize] = part.into_iter().chain(first).min_by_key(Lead::rank);
        }
        leads[Class::ALL.len()] = self.first_late().filter(|_| !waits).map(|late| Lead::Request(late.rank));
        leads
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

    /// All waiting requests by rank: first those that can still be on time.
    pub(crate) fn line(&self) -> &Line {
        &self.waiting
    }

    /// The most urgent of those that can still be on time.
    pub(crate) fn first_on_time(&self) -> Option<&Item> {
        self.waiting.first().filter(|first| !first.rank.late)
    }

    /// Of those that can still be on time, the first of each class: how many stand before it, and when it is due.
    pub(crate) fn firsts(&self) -> impl Iterator<Item = (u64, Timestamp)> {
        let classes = Class::ALL.into_iter().filter(|class| self.by_class[*class as usize] > 0);
        classes.filter_map(|class| {
            let first = self.first_of(false, class)?.rank;
            Some((self.waiting.before(first).requests, first.due))
        })
    }

    /// When the earliest of them is due.
    pub(crate) fn first_due(&self) -> Option<Timestamp> {
        self.firsts().map(|(_, due)| due).min()
    }

    /// Those that can still be on time, by rank.
    pub(crate) fn on_time_items(&self) -> impl Iterator<Item = &Item> {
        self.waiting.iter().take_while(|item| !item.rank.late)
    }

    /// Whose they are, and what they take in all.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = (TenantId, &Totals)> {
        self.tenants.iter().map(|(tenant, totals)| (*tenant, totals))
    }

    /// The same of one class.
    pub(crate) fn on_time_of(&self, class: Class) -> impl Iterator<Item = &Item> {
        let first = self.waiting.before(Rank::first_of(false, class)).requests;
        self.waiting.iter_from(first).take_while(move |item| !item.rank.late && item.rank.class == class)
    }

    /// How long they have waited in all, in nanoseconds.
    pub(crate) fn waited(&self, now: Timestamp) -> u128 {
        (u128::from(self.on_time.requests) * u128::from(now.as_nanos())).saturating_sub(self.arrived)
    }

    /// The first of those that are late.
    pub(crate) fn first_late(&self) -> Option<&Item> {
        if self.late.requests == 0 {
            return None;
        }
        self.waiting.at(self.on_time.requests)
    }

    /// Those that are late, by rank.
    pub(crate) fn late_items(&self) -> impl Iterator<Item = &Item> {
        self.waiting.iter_from(self.on_time.requests)
    }

    /// Sums over all requests, those in parts included.
    pub(crate) fn totals(&self) -> Totals {
        self.waiting() + self.part_totals
    }

    /// Sums over those in parts.
    pub(crate) fn apart(&self) -> Totals {
        self.part_totals
    }

    /// Requests by class, those in parts included, without those that are late.
    pub(crate) fn by_class(&self) -> ByClass<u64> {
        self.by_class
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
        self.waiting.before(rank).requests as usize + in_parts
    }

    /// Every queued request, with the rank of its part if it is in one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Item, Option<Rank>)> {
        let waiting = self.waiting.iter().map(|item| (*item, None));
        let parts = self.parts.iter().flat_map(|(part, items)| items.iter().map(|item| (*item, Some(*part))));
        waiting.chain(parts)
    }

    /// Derives every index and sum anew.
    pub(crate) fn assert_invariants(&self) {
        let (mut on_time, mut late, mut part_totals) = (Totals::default(), Totals::default(), Totals::default());
        let (mut by_class, mut arrived) = ([0; Class::ALL.len()], 0);
        let mut tenants = BTreeMap::<TenantId, Totals>::new();
        for (item, part) in self.iter() {
            by_class[item.rank.class as usize] += u64::from(!item.rank.late);
            match part {
                Some(_) => part_totals.add(item.cost),
                None if item.rank.late => late.add(item.cost),
                None => {
                    on_time.add(item.cost);
                    tenants.entry(item.tenant).or_default().add(item.cost);
                    arrived += u128::from(item.arrived.as_nanos());
                }
            }
        }
        let found = (on_time, late, part_totals, arrived);
        assert_eq!(found, (self.on_time, self.late, self.part_totals, self.arrived), "the sums of the queue");
        assert_eq!(by_class, self.by_class, "requests by class");
        assert_eq!(tenants, self.tenants, "requests by tenant");
        self.waiting.assert_invariants();
        let oldest = self.waiting.iter().map(|item| item.arrived).min();
        assert_eq!(oldest, self.arrivals.oldest(), "the oldest of the waiting requests");
        assert!(self.arrivals.len() >= self.waiting.iter().count(), "every waiting request has arrived");
        assert!(self.parts.values().all(|members| !members.is_empty()), "a part has members");
    }

    fn first_of(&self, late: bool, class: Class) -> Option<&Item> {
        let is_of_class = |item: &&Item| item.rank.late == late && item.rank.class == class;
        // Nearly always the very first one is.
        let first = self.waiting.first().filter(is_of_class);
        first.or_else(|| self.waiting.first_from(Rank::first_of(late, class)).filter(is_of_class))
    }
}
