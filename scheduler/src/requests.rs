//! Every request that has been admitted and has not ended: where it is, whose it is, when it expires.

use alloc::collections::btree_map::{BTreeMap, Entry};
use alloc::collections::btree_set::BTreeSet;
use alloc::vec::Vec;

use crate::queue::{Item, Rank};
use crate::{BatchId, Class, Cost, GroupId, ModelId, RequestId, TenantId, Timestamp};

/// One admitted request that has not ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live {
    pub(crate) group: GroupId,
    pub(crate) model: ModelId,
    pub(crate) tenant: TenantId,
    pub(crate) class: Class,
    pub(crate) cost: Cost,
    pub(crate) arrived: Timestamp,
    /// The client's; [`Timestamp::MAX`] when it has none.
    pub(crate) deadline: Timestamp,
    /// What orders it in its class.
    pub(crate) due: Timestamp,
    /// Given up as too late for its objective.
    pub(crate) late: bool,
    /// How often it was sent to a worker.
    pub(crate) attempt: u16,
    /// How often it was lost while it could have been running.
    pub(crate) losses: u16,
    /// It was run a second time beside the first.
    pub(crate) hedged: bool,
    pub(crate) place: Place,
    /// Since when it is there.
    pub(crate) since: Timestamp,
    /// Its entry in the expiry index; [`Timestamp::MAX`] when it has none.
    pub(crate) expires: Timestamp,
}

/// Where a live request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On its way from one place to another, inside one call of `handle`.
    Between,
    /// In its model's queue.
    Queued,
    /// In the part of its model's queue that stands under this rank.
    Isolated(Rank),
    /// With a worker. If this batch is hedged, it may be in its twin as well.
    Running(BatchId),
}

impl Live {
    pub(crate) fn item(&self, id: RequestId) -> Item {
        let rank = Rank { late: self.late, class: self.class, due: self.due, id };
        Item { rank, tenant: self.tenant, arrived: self.arrived, deadline: self.deadline, cost: self.cost }
    }

    fn put(
        &mut self,
        id: RequestId,
        place: Place,
        since: Timestamp,
        expires: Timestamp,
        expiries: &mut BTreeSet<(Timestamp, RequestId)>,
    ) {
        if self.expires != expires {
            expiries.remove(&(self.expires, id));
            if expires != Timestamp::MAX {
                expiries.insert((expires, id));
            }
        }
        (self.place, self.since, self.expires) = (place, since, expires);
    }
}

/// The requests of one call of which some have not ended.
#[derive(Debug)]
struct Members {
    /// All of the call, in its order.
    requests: Vec<RequestId>,
    live: usize,
}

/// The live requests by id, by call and by expiry.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    live: BTreeMap<RequestId, Live>,
    /// All but those that [`Self::alone`] finds.
    groups: BTreeMap<GroupId, Members>,
    expiries: BTreeSet<(Timestamp, RequestId)>,
}

impl Requests {
    /// # Panics
    ///
    /// Panics when the id is in use: to go on would be to give one request the answer of another.
    pub(crate) fn insert(&mut self, id: RequestId, request: Live) {
        self.join(id, request.group);
        if request.expires != Timestamp::MAX {
            self.expiries.insert((request.expires, id));
        }
        assert!(self.live.insert(id, request).is_none(), "request id {id} is in use");
    }

    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Live> {
        let request = self.live.remove(&id)?;
        self.forget(id, &request);
        Some(request)
    }

    /// Removes a request if it is with a worker in this batch.
    pub(crate) fn remove_running(&mut self, id: RequestId, batch: BatchId) -> Option<Live> {
        let Entry::Occupied(entry) = self.live.entry(id) else { return None };
        if entry.get().place != Place::Running(batch) {
            return None;
        }
        let request = entry.remove();
        self.forget(id, &request);
        Some(request)
    }

    /// Takes a removed request out of the indexes.
    fn forget(&mut self, id: RequestId, request: &Live) {
        if request.expires != Timestamp::MAX {
            self.expiries.remove(&(request.expires, id));
        }
        if let Entry::Occupied(mut members) = self.groups.entry(request.group) {
            members.get_mut().live -= 1;
            if members.get().live == 0 {
                members.remove();
            }
        }
    }

    /// Enters a request that is not there yet into its call.
    fn join(&mut self, id: RequestId, group: GroupId) {
        let first = self.alone(group);
        match self.groups.entry(group) {
            Entry::Occupied(mut members) => {
                members.get_mut().requests.push(id);
                members.get_mut().live += 1;
            }
            Entry::Vacant(_) if first.is_none() && id.0 == group.0 => {}
            Entry::Vacant(entry) => {
                let requests: Vec<_> = first.into_iter().chain([id]).collect();
                entry.insert(Members { live: requests.len(), requests });
            }
        }
    }

    /// The only request of a call that has the call's number as well. Most calls are such, and are not worth an entry.
    fn alone(&self, group: GroupId) -> Option<RequestId> {
        let id = RequestId(group.0);
        self.live.get(&id).filter(|request| request.group == group && !self.groups.contains_key(&group)).map(|_| id)
    }

    /// Moves a request: to a place, at a time, until it expires there.
    pub(crate) fn put(&mut self, id: RequestId, place: Place, since: Timestamp, expires: Timestamp) {
        if let Some(request) = self.live.get_mut(&id) {
            request.put(id, place, since, expires, &mut self.expiries);
        }
    }

    /// Moves a request to a worker, as one more attempt.
    pub(crate) fn start(&mut self, id: RequestId, batch: BatchId, now: Timestamp) -> Option<&Live> {
        let request = self.live.get_mut(&id)?;
        request.put(id, Place::Running(batch), now, request.deadline, &mut self.expiries);
        request.attempt = request.attempt.saturating_add(1);
        Some(request)
    }

    /// A running request is run a second time, as one more attempt. Returns which it is.
    pub(crate) fn hedge(&mut self, id: RequestId) -> u16 {
        self.live.get_mut(&id).map_or(0, |request| {
            request.hedged = true;
            request.attempt = request.attempt.saturating_add(1);
            request.attempt
        })
    }

    /// The batch that a request was in is over; the hedge of that has it alone now.
    pub(crate) fn carry_on(&mut self, id: RequestId, hedge: BatchId) {
        if let Some(request) = self.live.get_mut(&id) {
            request.place = Place::Running(hedge);
        }
    }

    /// Gives a request up as too late for its objective, or takes that back.
    pub(crate) fn mark_late(&mut self, id: RequestId, late: bool) {
        if let Some(request) = self.live.get_mut(&id) {
            request.late = late;
        }
    }

    /// Counts one more loss and returns how many there were.
    pub(crate) fn count_loss(&mut self, id: RequestId) -> u16 {
        self.live.get_mut(&id).map_or(0, |request| {
            request.losses = request.losses.saturating_add(1);
            request.losses
        })
    }

    pub(crate) fn get(&self, id: RequestId) -> Option<&Live> {
        self.live.get(&id)
    }

    pub(crate) fn is_running(&self, id: RequestId, batch: BatchId) -> bool {
        self.live.get(&id).is_some_and(|request| request.place == Place::Running(batch))
    }

    /// The live requests of a call, in its order.
    pub(crate) fn of_group(&self, group: GroupId) -> Vec<RequestId> {
        let Some(members) = self.groups.get(&group) else { return self.alone(group).into_iter().collect() };
        members.requests.iter().copied().filter(|id| self.live.contains_key(id)).collect()
    }

    pub(crate) fn has_group(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group) || self.alone(group).is_some()
    }

    /// The next request to expire, and when.
    pub(crate) fn first_expiry(&self) -> Option<(Timestamp, RequestId)> {
        self.expiries.first().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (RequestId, &Live)> {
        self.live.iter().map(|(id, request)| (*id, request))
    }

    /// Derives the index of calls and the index of expiries anew.
    pub(crate) fn assert_invariants(&self) {
        let expiries = self.iter().map(|(id, request)| (request.expires, id));
        let expiries: BTreeSet<_> = expiries.filter(|(expires, _)| *expires != Timestamp::MAX).collect();
        assert_eq!(expiries, self.expiries, "the index of expiries");
        let mut live = BTreeMap::<GroupId, usize>::new();
        for (id, request) in self.iter() {
            *live.entry(request.group).or_default() += 1;
            assert!(self.of_group(request.group).contains(&id), "request {id} is in its group");
            assert!(request.expires <= request.deadline, "request {id} expires by its deadline");
        }
        for (group, members) in &self.groups {
            assert_eq!(live.remove(group), Some(members.live), "live members of group {group}");
        }
        let alone = |(group, count): (GroupId, usize)| count == 1 && self.alone(group).is_some();
        assert!(live.into_iter().all(alone), "every other group is one request of the same number");
    }
}
