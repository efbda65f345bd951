//! The workers: which models they hold, which credits they gave, which batches they have.
//!
//! The table has no opinion on what to do with them. It knows workers by id across their reconnects, because what their
//! memory holds is learned once, and because an epoch older than the last is a voice from the past.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::cap::Cap;
use crate::pools::{Load, PoolId, Pools, Standing};
use crate::turns::Turns;
use crate::{BatchId, Budget, DeviceId, Epoch, ModelId, Slot, Timestamp, WaitCause, WorkerId};

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
#[derive(Debug)]
pub(crate) struct Link {
    /// What it computes on.
    pub(crate) device: DeviceId,
    pub(crate) holdings: BTreeMap<ModelId, Holding>,
    credits: BTreeMap<Slot, Budget>,
    /// In the order sent. The worker is taken to run the first; those behind it have not begun.
    pub(crate) outstanding: VecDeque<BatchId>,
    /// Rows of the outstanding batches.
    pub(crate) rows: u64,
    /// When it is thought to be through with them.
    pub(crate) free_at: Timestamp,
    /// The workers that hold the same models, if it holds any, and where it stands among them.
    pool: Option<(PoolId, Standing)>,
    /// A batch of it was slow, and it has not shown since that it is well.
    pub(crate) suspect: Option<Suspect>,
    /// Models whose weights are not on its device, as it said last.
    pub(crate) absent: BTreeSet<ModelId>,
    /// It has a part of a batch that failed, and gets nothing beside it.
    pub(crate) is_apart: bool,
    /// Such a part waits for it to be through with what it has: it gets nothing else.
    pub(crate) is_held: bool,
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
    /// Nothing is loaded, and no credit given.
    fn new(device: DeviceId, offers: Vec<ModelId>) -> Self {
        Self {
            device,
            holdings: offers.into_iter().map(|model| (model, Holding::Unloaded)).collect(),
            credits: BTreeMap::new(),
            outstanding: VecDeque::new(),
            rows: 0,
            free_at: Timestamp::ZERO,
            pool: None,
            suspect: None,
            absent: BTreeSet::new(),
            is_apart: false,
            is_held: false,
        }
    }

    pub(crate) fn is_ready(&self, model: ModelId) -> bool {
        self.holdings.get(&model) == Some(&Holding::Ready)
    }

    pub(crate) fn ready_models(&self) -> impl Iterator<Item = ModelId> {
        self.holdings.iter().filter(|(_, holding)| **holding == Holding::Ready).map(|(model, _)| *model)
    }

    /// The workers that hold the same models.
    pub(crate) fn pool(&self) -> Option<PoolId> {
        self.pool.map(|(pool, _)| pool)
    }

    /// Batches that can be sent to it at once.
    pub(crate) fn credits(&self) -> usize {
        self.credits.len()
    }

    fn standing(&self) -> Standing {
        let is_free = !self.credits.is_empty() && !self.is_apart && !self.is_held;
        let (is_stuck, is_suspect) = (self.is_stuck(), self.suspect.is_some());
        let load = Load { is_stuck, is_suspect, batches: self.outstanding.len(), rows: self.rows };
        Standing { is_stuck, free: is_free.then_some(load), busy: (!is_free).then_some(self.free_at) }
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
    pub(crate) pools: Pools,
    /// Connected workers.
    lives: u32,
    /// Of them those that are suspect.
    suspects: u32,
    /// Credits of all workers.
    credits: usize,
    /// What the least loaded free worker of each pool offers, or offered last.
    offers: BTreeMap<PoolId, Budget>,
    has_new_offer: bool,
}

impl Fleet {
    /// Takes in a new life of a worker. The old one has been disconnected before.
    pub(crate) fn connect(&mut self, id: WorkerId, epoch: Epoch, device: DeviceId, offers: Vec<ModelId>) {
        let link = Some(Link::new(device, offers));
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
        self.credits -= link.credits.len();
        if let Some((pool, standing)) = link.pool {
            self.pools.leave(pool, id, standing);
            self.note_offer(pool);
        }
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
        let before = link.credits.len();
        if budget.rows == 0 {
            link.credits.remove(&slot);
        } else if before >= SLOTS_MAX && !link.credits.contains_key(&slot) {
            return false;
        } else {
            link.credits.insert(slot, budget);
        }
        let after = link.credits.len();
        self.credits = self.credits + after - before;
        self.place(id);
        true
    }

    /// A batch goes to the worker on this credit, with nothing beside it if it `is_apart`.
    pub(crate) fn spend(&mut self, id: WorkerId, slot: Slot, batch: BatchId, rows: u32, is_apart: bool) {
        let Some(link) = self.link_mut(id) else { return };
        link.is_apart = is_apart;
        let spent = usize::from(link.credits.remove(&slot).is_some());
        link.outstanding.push_back(batch);
        link.rows += u64::from(rows);
        self.credits -= spent;
    }

    /// What a worker has to do changed: notes where that puts it in its pool.
    pub(crate) fn place(&mut self, id: WorkerId) {
        let Some(link) = self.workers.get_mut(&id).and_then(|worker| worker.link.as_mut()) else { return };
        let new = link.standing();
        if let Some((pool, standing)) = &mut link.pool {
            let pool = *pool;
            self.pools.place(pool, id, core::mem::replace(standing, new), new);
            self.note_offer(pool);
        }
    }

    fn note_offer(&mut self, pool: PoolId) {
        let offer = self.pools.first_free(pool).and_then(|worker| self.link(worker)?.best_credit());
        if let Some((_, offer)) = offer {
            self.has_new_offer |= self.offers.insert(pool, offer) != Some(offer);
        }
    }

    /// Whether workers offer something else since this was asked last.
    pub(crate) fn has_new_offer(&mut self) -> bool {
        core::mem::take(&mut self.has_new_offer)
    }

    /// What a worker holds changed: it goes to those that hold the same. Says whether these were none.
    pub(crate) fn regroup(&mut self, id: WorkerId) -> bool {
        let Some(link) = self.workers.get_mut(&id).and_then(|worker| worker.link.as_mut()) else { return false };
        if let Some((pool, standing)) = link.pool.take() {
            self.pools.leave(pool, id, standing);
        }
        let pools = &self.pools;
        self.offers.retain(|pool, _| pools.exists(*pool));
        let models: Vec<ModelId> = link.ready_models().collect();
        if models.is_empty() {
            return false;
        }
        let (pool, is_first) = self.pools.join(models);
        link.pool = Some((pool, Standing::NONE));
        self.place(id);
        is_first
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
        let mut best = None;
        for free in self.pools.free(model) {
            for (Load { is_suspect, batches, rows, .. }, id) in free {
                let (late, slow) = (is_late(id), is_slow(id));
                let key = (late, is_suspect, batches, slow, rows, id);
                best = Some(best.map_or(key, |best| key.min(best)));
                // Those that come have no less to do.
                if !late && !slow {
                    break;
                }
            }
        }
        best.map(|(.., id)| id)
    }

    /// Workers that hold a model.
    pub(crate) fn ready(&self, model: ModelId) -> u32 {
        self.pools.workers(model)
    }

    /// What keeps a model's queue waiting as far as it is up to workers.
    pub(crate) fn wait_cause(&self, model: ModelId) -> WaitCause {
        if self.ready(model) > 0 {
            return WaitCause::WorkersBusy;
        }
        let mut holdings = self.connected().filter_map(|(_, _, link)| link.holdings.get(&model));
        let is_coming = holdings.any(|holding| *holding == Holding::Loading);
        if is_coming { WaitCause::Loading } else { WaitCause::NoWorker }
    }

    /// The connected workers that hold a model.
    pub(crate) fn holders(&self, model: ModelId) -> impl Iterator<Item = (WorkerId, &Link)> {
        self.connected().filter(move |(_, _, link)| link.is_ready(model)).map(|(id, _, link)| (id, link))
    }

    /// Holds a worker for a part of a batch that failed, or no longer.
    pub(crate) fn hold(&mut self, id: WorkerId, is_held: bool) {
        if let Some(link) = self.link_mut(id) {
            link.is_held = is_held;
            self.place(id);
        }
    }

    /// Suspects a worker, or trusts it again.
    pub(crate) fn suspect(&mut self, id: WorkerId, suspect: Option<Suspect>) {
        let Some(link) = self.link_mut(id) else { return };
        let before = core::mem::replace(&mut link.suspect, suspect);
        self.suspects = self.suspects + u32::from(suspect.is_some()) - u32::from(before.is_some());
        self.place(id);
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
        self.credits
    }

    /// Derives the indexes of workers anew.
    pub(crate) fn assert_invariants(&self) {
        assert_eq!(self.connected().count(), self.lives as usize, "connected workers");
        assert_eq!(self.connected().map(|(_, _, link)| link.credits.len()).sum::<usize>(), self.credits, "credits");
        let suspects = self.connected().filter(|(_, _, link)| link.suspect.is_some()).count();
        assert_eq!(suspects, self.suspects as usize, "suspect workers");
        let mut ready = BTreeMap::new();
        for (id, _, link) in self.connected() {
            assert_eq!(link.pool.is_some(), link.ready_models().next().is_some(), "worker {id} has a pool");
            assert!(link.pool.is_none_or(|(_, standing)| standing == link.standing()), "worker {id} stands as it says");
            link.ready_models().for_each(|model| *ready.entry(model).or_insert(0) += 1);
        }
        for (model, workers) in ready {
            assert_eq!(self.ready(model), workers, "workers that hold model {model}");
        }
        self.pools.assert_invariants();
    }
}
