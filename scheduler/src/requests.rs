//! Every request that has been admitted and has not ended: where it is, whose it is, when it expires.

use alloc::collections::{BTreeMap, BTreeSet};
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
    /// How often it was sent to a worker.
    pub(crate) attempt: u16,
    /// How often it was lost while it could have been running.
    pub(crate) losses: u16,
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
    /// With a worker.
    Running(BatchId),
}

impl Live {
    pub(crate) fn item(&self, id: RequestId) -> Item {
        Item { rank: Rank { class: self.class, due: self.due, id }, arrived: self.arrived, cost: self.cost }
    }
}

/// The members of one call that have not ended.
#[derive(Debug, Default)]
struct Members {
    /// All of the call, in its order.
    requests: Vec<RequestId>,
    live: usize,
}

/// The live requests by id, by call and by expiry.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    live: BTreeMap<RequestId, Live>,
    groups: BTreeMap<GroupId, Members>,
    expiries: BTreeSet<(Timestamp, RequestId)>,
}

impl Requests {
    /// # Panics
    ///
    /// Panics when the id is in use: to go on would be to give one request the answer of another.
    pub(crate) fn insert(&mut self, id: RequestId, request: Live) {
        let members = self.groups.entry(request.group).or_default();
        members.requests.push(id);
        members.live += 1;
        assert!(self.live.insert(id, request).is_none(), "request id {id} is in use");
    }

    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Live> {
        let request = self.live.remove(&id)?;
        self.expiries.remove(&(request.expires, id));
        if let Some(members) = self.groups.get_mut(&request.group) {
            members.live -= 1;
            if members.live == 0 {
                self.groups.remove(&request.group);
            }
        }
        Some(request)
    }

    /// Moves a request: to a place, at a time, until it expires there.
    pub(crate) fn put(&mut self, id: RequestId, place: Place, since: Timestamp, expires: Timestamp) {
        let Some(request) = self.live.get_mut(&id) else { return };
        if request.expires != expires {
            self.expiries.remove(&(request.expires, id));
            if expires != Timestamp::MAX {
                self.expiries.insert((expires, id));
            }
        }
        (request.place, request.since, request.expires) = (place, since, expires);
    }

    /// Counts one more sending and returns which it is.
    pub(crate) fn count_attempt(&mut self, id: RequestId) -> u16 {
        self.live.get_mut(&id).map_or(0, |request| {
            request.attempt = request.attempt.saturating_add(1);
            request.attempt
        })
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
        let members = self.groups.get(&group).map_or(&[][..], |members| &members.requests);
        members.iter().copied().filter(|id| self.live.contains_key(id)).collect()
    }

    pub(crate) fn has_group(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
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
            assert!(self.groups[&request.group].requests.contains(&id), "request {id} is in its group");
            assert!(request.expires <= request.deadline, "request {id} expires by its deadline");
        }
        let counted: BTreeMap<_, _> = self.groups.iter().map(|(group, members)| (*group, members.live)).collect();
        assert_eq!(live, counted, "live members of each group");
    }
}
