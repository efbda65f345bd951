//! Every request that has been admitted and has not ended: where it is, whose it is, when it expires.

use alloc::collections::btree_map::{BTreeMap, Entry};
use alloc::vec::Vec;

use crate::expiries::Expiries;
use crate::queue::{Item, Rank};
use crate::table::Table;
use crate::{BatchId, Class, Cost, DeviceId, GroupId, ModelId, RequestId, TenantId, Timestamp};

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
    /// The first device that broke under the batch that it was in.
    pub(crate) broke: Option<DeviceId>,
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
    live: Table<Live>,
    /// All but those that [`Self::alone`] finds.
    groups: BTreeMap<GroupId, Members>,
    expiries: Expiries,
}

impl Requests {
    /// # Panics
    ///
    /// Panics when the id is in use: to go on would be to give one request the answer of another.
    pub(crate) fn insert(&mut self, id: RequestId, request: Live) {
        self.join(id, request.group);
        self.expiries.insert(request.expires, id);
        assert!(self.live.insert(id.0, request), "request id {id} is in use");
    }

    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Live> {
        let request = self.live.remove(id.0)?;
        self.forget(&request);
        Some(request)
    }

    /// Removes a request if it is with a worker in this batch.
    pub(crate) fn remove_running(&mut self, id: RequestId, batch: BatchId) -> Option<Live> {
        self.get(id).filter(|request| request.place == Place::Running(batch))?;
        self.remove(id)
    }

    /// Takes a removed request out of the indexes.
    fn forget(&mut self, request: &Live) {
        self.forget_expiry(request.expires);
        if self.groups.is_empty() {
            return;
        }
        if let Entry::Occupied(mut members) = self.groups.entry(request.group) {
            members.get_mut().live -= 1;
            if members.get().live == 0 {
                members.remove();
            }
        }
    }

    /// A request no longer expires then.
    fn forget_expiry(&mut self, at: Timestamp) {
        let live = &self.live;
        let is_true = |at: Timestamp, id: RequestId| live.get(id.0).is_some_and(|request| request.expires == at);
        if self.expiries.remove(at, is_true) {
            self.expiries.renew(live.iter().map(|(id, request)| (request.expires, RequestId(id))));
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
        let request = self.live.get(id.0)?;
        (request.group == group && !self.groups.contains_key(&group)).then_some(id)
    }

    /// Moves a request: to a place, at a time, until it expires there.
    pub(crate) fn put(&mut self, id: RequestId, place: Place, since: Timestamp, expires: Timestamp) {
        let Some(request) = self.live.get_mut(id.0) else { return };
        (request.place, request.since) = (place, since);
        let old = core::mem::replace(&mut request.expires, expires);
        if old != expires {
            self.expiries.insert(expires, id);
            self.forget_expiry(old);
        }
    }

    /// Moves a request to a worker, as one more attempt.
    pub(crate) fn start(&mut self, id: RequestId, batch: BatchId, now: Timestamp) -> Option<&Live> {
        let request = self.live.get_mut(id.0)?;
        request.attempt = request.attempt.saturating_add(1);
        (request.place, request.since) = (Place::Running(batch), now);
        if request.expires != request.deadline {
            let deadline = request.deadline;
            self.put(id, Place::Running(batch), now, deadline);
        }
        self.get(id)
    }

    /// A running request is run a second time, as one more attempt. Returns which it is.
    pub(crate) fn hedge(&mut self, id: RequestId) -> u16 {
        self.live.get_mut(id.0).map_or(0, |request| {
            request.hedged = true;
            request.attempt = request.attempt.saturating_add(1);
            request.attempt
        })
    }

    /// The batch that a request was in is over; the hedge of that has it alone now.
    pub(crate) fn carry_on(&mut self, id: RequestId, hedge: BatchId) {
        if let Some(request) = self.live.get_mut(id.0) {
            request.place = Place::Running(hedge);
        }
    }

    /// Gives a request up as too late for its objective, or takes that back.
    pub(crate) fn mark_late(&mut self, id: RequestId, late: bool) {
        if let Some(request) = self.live.get_mut(id.0) {
            request.late = late;
        }
    }

    /// Counts one more loss and returns how many there were.
    pub(crate) fn count_loss(&mut self, id: RequestId) -> u16 {
        self.live.get_mut(id.0).map_or(0, |request| {
            request.losses = request.losses.saturating_add(1);
            request.losses
        })
    }

    /// Notes that a device broke under a request. Says whether another had before.
    pub(crate) fn note_break(&mut self, id: RequestId, device: DeviceId) -> bool {
        self.live.get_mut(id.0).is_some_and(|request| *request.broke.get_or_insert(device) != device)
    }

    pub(crate) fn get(&self, id: RequestId) -> Option<&Live> {
        self.live.get(id.0)
    }

    pub(crate) fn is_running(&self, id: RequestId, batch: BatchId) -> bool {
        self.live.get(id.0).is_some_and(|request| request.place == Place::Running(batch))
    }

    /// The live requests of a call, in its order.
    pub(crate) fn of_group(&self, group: GroupId) -> Vec<RequestId> {
        let Some(members) = self.groups.get(&group) else { return self.alone(group).into_iter().collect() };
        members.requests.iter().copied().filter(|id| self.live.get(id.0).is_some()).collect()
    }

    pub(crate) fn has_group(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group) || self.alone(group).is_some()
    }

    /// The next request to expire, and when.
    pub(crate) fn first_expiry(&self) -> Option<(Timestamp, RequestId)> {
        self.expiries.first()
    }

    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live.len() == 0
    }

    /// All, in order of their ids. Sorts them, so it is for what is rare.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RequestId, &Live)> {
        let mut all: Vec<_> = self.live.iter().map(|(id, request)| (RequestId(id), request)).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all.into_iter()
    }

    /// Derives the index of calls and the index of expiries anew.
    pub(crate) fn assert_invariants(&self) {
        self.expiries.assert_invariants(self.iter().map(|(id, request)| (request.expires, id)));
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
