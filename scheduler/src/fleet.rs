//! The workers: which models they hold, which credits they gave, which batches they have.
//!
//! The table has no opinion on what to do with them. It knows workers by id across their reconnects, because what their
//! memory holds is learned once, and because an epoch older than the last is a voice from the past.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::cap::Cap;
use crate::turns::Turns;
use crate::{BatchId, Budget, Epoch, ModelId, Slot, Timestamp, WorkerId};

/// Slots of one worker at most; credits for more are dropped.
const SLOTS_MAX: usize = 1_024;
/// Workers remembered after they went, at most; beyond it the one longest gone is forgotten.
const ABSENT_MAX: usize = 1_024;

/// What a worker does with a model it offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    /// Not in memory and not wanted there, or dropped by the worker on its own.
    Unloaded,
    /// Told to load it.
    Loading,
    /// Can run it.
    Ready,
    /// Could not load it; not asked again in this epoch unless the configuration changes.
    Failed,
    /// Told to unload it.
    Unloading,
}

/// A worker, connected or remembered.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Of its connection, or of its last one.
    pub(crate) epoch: Epoch,
    pub(crate) link: Option<Link>,
    /// Outlives the connection: the device behind it is the same.
    pub(crate) caps: BTreeMap<ModelId, Cap>,
    /// Outlives the connection: a worker that keeps crashing owes what it owed.
    pub(crate) turns: Turns,
}

/// One life of a worker's connection.
#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) holdings: BTreeMap<ModelId, Holding>,
    credits: BTreeMap<Slot, Budget>,
    /// In the order sent. The worker is taken to run the first; those behind it have not begun.
    pub(crate) outstanding: VecDeque<BatchId>,
    /// Rows of the outstanding batches.
    pub(crate) rows: u64,
    /// When it is thought to be through with them.
    pub(crate) free_at: Timestamp,
    /// A batch of it was slow, and it has not shown since that it is well.
    pub(crate) suspect: Option<Suspect>,
}

/// What is remembered of a worker that is not trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspect {
    /// When it may be tried again.
    pub(crate) probe_at: Timestamp,
    /// Batches that ended since and were too slow.
    pub(crate) failed: u32,
}

impl Link {
    pub(crate) fn is_ready(&self, model: ModelId) -> bool {
        self.holdings.get(&model) == Some(&Holding::Ready)
    }

    pub(crate) fn ready_models(&self) -> impl Iterator<Item = ModelId> {
        self.holdings.iter().filter(|(_, holding)| **holding == Holding::Ready).map(|(model, _)| *model)
    }

    /// Whether it is not trusted and has something in hand: nobody knows when it will be free.
    pub(crate) fn is_stuck(&self) -> bool {
        self.suspect.is_some() && !self.outstanding.is_empty()
    }

    /// The credit to spend next: the one that allows most.
    pub(crate) fn best_credit(&self) -> Option<(Slot, Budget)> {
        let size = |budget: &Budget| (budget.rows, budget.tokens, budget.bytes);
        // Of equal ones `max_by_key` keeps the last, which reversed is the lowest slot.
        let best = self.credits.iter().rev().max_by_key(|(_, budget)| size(budget));
        best.map(|(slot, budget)| (*slot, *budget))
    }
}

/// All workers, connected or remembered.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    workers: BTreeMap<WorkerId, Worker>,
    /// Connected workers with a credit.
    free: BTreeSet<WorkerId>,
    /// Connected workers.
    lives: u32,
    /// Of them those that are suspect.
    suspects: u32,
    /// How many connected workers hold each model, as of the last [`Fleet::recount`].
    ready: BTreeMap<ModelId, u32>,
}

impl Fleet {
    /// Takes in a new life of a worker. The old one has been disconnected before.
    pub(crate) fn connect(&mut self, id: WorkerId, epoch: Epoch, offers: Vec<ModelId>) {
        let holdings = offers.into_iter().map(|model| (model, Holding::Unloaded)).collect();
        let link = Some(Link { holdings, ..Link::default() });
        let known = self.workers.remove(&id).map(|worker| (worker.caps, worker.turns));
        let (caps, turns) = known.unwrap_or_default();
        self.workers.insert(id, Worker { epoch, link, caps, turns });
        self.lives += 1;
    }

    /// Ends a worker's connection and hands out what was in it.
    pub(crate) fn disconnect(&mut self, id: WorkerId) -> Option<Link> {
        let link = self.workers.get_mut(&id)?.link.take()?;
        self.lives -= 1;
        self.suspects -= u32::from(link.suspect.is_some());
        self.free.remove(&id);
        let absent = self.workers.iter().filter(|(_, worker)| worker.link.is_none());
        if absent.clone().count() > ABSENT_MAX
            && let Some(oldest) = absent.min_by_key(|(_, worker)| worker.epoch).map(|(id, _)| *id)
        {
            self.workers.remove(&oldest);
        }
        Some(link)
    }

    /// A worker's credit. One for a slot that has one replaces it; one of no rows takes it back. Says whether it was
    /// accepted.
    pub(crate) fn grant(&mut self, id: WorkerId, slot: Slot, budget: Budget) -> bool {
        let Some(link) = self.link_mut(id) else { return false };
        if budget.rows == 0 {
            link.credits.remove(&slot);
        } else if link.credits.len() >= SLOTS_MAX && !link.credits.contains_key(&slot) {
            return false;
        } else {
            link.credits.insert(slot, budget);
        }
        self.index(id);
        true
    }

    /// A batch goes to the worker on this credit.
    pub(crate) fn spend(&mut self, id: WorkerId, slot: Slot, batch: BatchId, rows: u32) {
        let Some(link) = self.link_mut(id) else { return };
        link.credits.remove(&slot);
        link.outstanding.push_back(batch);
        link.rows += u64::from(rows);
        self.index(id);
    }

    /// Learns from a batch that did not fit the worker's memory.
    pub(crate) fn shrink_cap(&mut self, id: WorkerId, model: ModelId, rows: u32, tokens: u32) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.caps.entry(model).or_insert(Cap::NONE).shrink(rows, tokens);
        }
    }

    /// Learns from a batch that went well.
    pub(crate) fn count_good(&mut self, id: WorkerId, model: ModelId) {
        if let Some(cap) = self.workers.get_mut(&id).and_then(|worker| worker.caps.get_mut(&model)) {
            cap.count_good();
        }
    }

    /// Keeps count of turns; see [`Turns::count`].
    pub(crate) fn turns_mut(&mut self, id: WorkerId) -> Option<&mut Turns> {
        Some(&mut self.workers.get_mut(&id)?.turns)
    }

    /// Forgets what was learned of models that are gone.
    pub(crate) fn retain_caps(&mut self, keep: impl Fn(ModelId) -> bool) {
        for worker in self.workers.values_mut() {
            worker.caps.retain(|model, _| keep(*model));
        }
    }

    pub(crate) fn link_mut(&mut self, id: WorkerId) -> Option<&mut Link> {
        self.workers.get_mut(&id)?.link.as_mut()
    }

    pub(crate) fn link(&self, id: WorkerId) -> Option<&Link> {
        self.workers.get(&id)?.link.as_ref()
    }

    pub(crate) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// Whether this is the worker's present life.
    pub(crate) fn is_connected(&self, id: WorkerId, epoch: Epoch) -> bool {
        self.get(id).is_some_and(|worker| worker.epoch == epoch && worker.link.is_some())
    }

    pub(crate) fn cap(&self, id: WorkerId, model: ModelId) -> Cap {
        self.get(id).and_then(|worker| worker.caps.get(&model)).copied().unwrap_or(Cap::NONE)
    }

    /// The worker to send a batch of the model to, now: one with a credit where it is not late, suspects last, the least loaded,
    /// slow ones last, then the lowest id.
    pub(crate) fn free_for(
        &self,
        model: ModelId,
        is_late: impl Fn(WorkerId) -> bool,
        is_slow: impl Fn(WorkerId) -> bool,
    ) -> Option<WorkerId> {
        let free = self.free.iter().filter_map(|id| Some((*id, self.link(*id)?)));
        let ready = free.filter(|(_, link)| link.is_ready(model));
        // Behind what is stuck nothing is put, unless every worker is.
        let is_out = |link: &Link| link.is_stuck() && self.holders(model).any(|(_, other)| !other.is_stuck());
        let ready = ready.filter(|(_, link)| !is_out(link));
        let key = |id: WorkerId, link: &Link| {
            (is_late(id), link.suspect.is_some(), link.outstanding.len(), is_slow(id), link.rows, id)
        };
        ready.min_by_key(|(id, link)| key(*id, link)).map(|(id, _)| id)
    }

    /// Counts the workers that hold a model anew, which changes rarely.
    pub(crate) fn recount(&mut self, model: ModelId) {
        let ready = self.connected().filter(|(_, _, link)| link.is_ready(model)).count();
        match u32::try_from(ready).unwrap_or(u32::MAX) {
            0 => self.ready.remove(&model),
            workers => self.ready.insert(model, workers),
        };
    }

    /// Workers that hold a model.
    pub(crate) fn ready(&self, model: ModelId) -> u32 {
        self.ready.get(&model).copied().unwrap_or(0)
    }

    /// When the workers that hold a model are thought to be free, those with a credit being free now, in order. Those
    /// that are stuck are left out, unless all are.
    pub(crate) fn free_times(&self, model: ModelId, now: Timestamp) -> Vec<(Timestamp, WorkerId)> {
        let free_at = |link: &Link| if link.credits.is_empty() { link.free_at.max(now) } else { now };
        let times = |is_stuck: bool| {
            let ready = self.holders(model).filter(move |(_, link)| link.is_stuck() == is_stuck);
            ready.map(|(id, link)| (free_at(link), id)).collect::<Vec<_>>()
        };
        let mut times = Some(times(false)).filter(|times| !times.is_empty()).unwrap_or_else(|| times(true));
        times.sort_unstable();
        times
    }

    /// The connected workers that hold a model.
    pub(crate) fn holders(&self, model: ModelId) -> impl Iterator<Item = (WorkerId, &Link)> {
        self.connected().filter(move |(_, _, link)| link.is_ready(model)).map(|(id, _, link)| (id, link))
    }

    /// Suspects a worker, or trusts it again.
    pub(crate) fn suspect(&mut self, id: WorkerId, suspect: Option<Suspect>) {
        let Some(link) = self.link_mut(id) else { return };
        let before = core::mem::replace(&mut link.suspect, suspect);
        self.suspects = self.suspects + u32::from(suspect.is_some()) - u32::from(before.is_some());
    }

    /// How many workers are suspect.
    pub(crate) fn suspects(&self) -> u32 {
        self.suspects
    }

    /// How many workers are connected.
    pub(crate) fn lives(&self) -> u32 {
        self.lives
    }

    /// The connected workers.
    pub(crate) fn connected(&self) -> impl Iterator<Item = (WorkerId, Epoch, &Link)> {
        self.workers.iter().filter_map(|(id, worker)| Some((*id, worker.epoch, worker.link.as_ref()?)))
    }

    /// Credits of all workers.
    pub(crate) fn credits(&self) -> usize {
        self.free.iter().filter_map(|id| self.link(*id)).map(|link| link.credits.len()).sum()
    }

    /// Derives the index of free workers anew.
    pub(crate) fn assert_invariants(&self) {
        let free = self.connected().filter(|(_, _, link)| !link.credits.is_empty());
        let free: BTreeSet<_> = free.map(|(id, _, _)| id).collect();
        assert_eq!(free, self.free, "the index of workers with a credit");
        assert_eq!(self.connected().count(), self.lives as usize, "connected workers");
        let suspects = self.connected().filter(|(_, _, link)| link.suspect.is_some()).count();
        assert_eq!(suspects, self.suspects as usize, "suspect workers");
        let mut ready = BTreeMap::new();
        for model in self.connected().flat_map(|(_, _, link)| link.ready_models()) {
            *ready.entry(model).or_insert(0) += 1;
        }
        assert_eq!(ready, self.ready, "how many workers hold each model");
    }

    fn index(&mut self, id: WorkerId) {
        if self.link(id).is_some_and(|link| !link.credits.is_empty()) {
            self.free.insert(id);
        } else {
            self.free.remove(&id);
        }
    }
}
