//! Workers that hold the same models are one pool: what waits for one of them waits for all.
//!
//! A pool knows which of its workers is free and which will be next, and which of its models must start first. So the next
//! batch is found without looking at each model or each worker. Workers change their pool when a model is loaded or
//! dropped, which is rare; nearly always there are few pools.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use crate::queue::Rank;
use crate::{Class, ModelId, Timestamp, WorkerId};

/// One for each class, and the last one for those that are late.
pub(crate) const LANES: usize = Class::ALL.len() + 1;
/// The lane of those that are late.
const LATE: usize = Class::ALL.len();

/// When a model must start its next batch at the latest, what it got so far, and which request leads it; in each lane that it
/// has something in.
pub(crate) type Heads = [Option<Head>; LANES];
pub(crate) type Head = (Timestamp, Duration, Rank);

/// How little a free worker suits a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Load {
    /// Whether it is suspect and has something in hand.
    pub(crate) is_stuck: bool,
    pub(crate) is_suspect: bool,
    /// Outstanding.
    pub(crate) batches: usize,
    /// Of them.
    pub(crate) rows: u64,
}

/// Which pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PoolId(u64);

/// Where a worker stands in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Nobody knows when it will be through with what it has to do.
    pub(crate) is_stuck: bool,
    /// What it has to do, if it has a credit.
    pub(crate) free: Option<Load>,
    /// When it is thought to be through with that, if it has none.
    pub(crate) busy: Option<Timestamp>,
}

impl Standing {
    /// Of one that has just come.
    pub(crate) const NONE: Self = Self { is_stuck: false, free: None, busy: None };
}

/// Workers that hold the same models, and what waits for them.
#[derive(Debug, Default)]
struct Pool {
    models: Vec<ModelId>,
    workers: u32,
    /// Of them those that are stuck. Nothing goes to them, and nobody counts on them, unless all are.
    stuck: u32,
    free: BTreeSet<(Load, WorkerId)>,
    /// Those that are not stuck first.
    busy: BTreeSet<(bool, Timestamp, WorkerId)>,
    lanes: [BTreeSet<(Head, ModelId)>; LANES],
}

/// All pools. Each has a worker.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    pools: BTreeMap<PoolId, Pool>,
    by_models: BTreeMap<Vec<ModelId>, PoolId>,
    of_model: BTreeMap<ModelId, Vec<PoolId>>,
    last: u64,
}

/// The workers that hold a model and have nothing to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle<'a> {
    pools: &'a Pools,
    model: ModelId,
}

impl Idle<'_> {
    /// How many there are; no more than so many are counted.
    pub(crate) fn up_to(self, most: usize) -> usize {
        let idle = |(load, _): &(Load, WorkerId)| load.batches == 0 && !load.is_suspect;
        self.pools.free(self.model).flatten().filter(idle).take(most).count()
    }
}

impl Pools {
    /// Without workers.
    #[cfg(test)]
    pub(crate) const EMPTY: Self =
        Self { pools: BTreeMap::new(), by_models: BTreeMap::new(), of_model: BTreeMap::new(), last: 0 };

    /// A worker that holds just these models joins those that do. Says whether it is the first.
    pub(crate) fn join(&mut self, models: Vec<ModelId>) -> (PoolId, bool) {
        let id = match self.by_models.get(&models) {
            Some(id) => *id,
            None => {
                self.last += 1;
                self.pools.insert(PoolId(self.last), Pool { models: models.clone(), ..Pool::default() });
                self.by_models.insert(models, PoolId(self.last));
                PoolId(self.last)
            }
        };
        let pool = self.pools.entry(id).or_default();
        pool.workers += 1;
        let is_first = pool.workers == 1;
        if is_first {
            for model in &pool.models {
                self.of_model.entry(*model).or_default().push(id);
            }
        }
        (id, is_first)
    }

    /// A worker leaves. What waited for nobody else there is listed no more.
    pub(crate) fn leave(&mut self, id: PoolId, worker: WorkerId, standing: Standing) {
        self.place(id, worker, standing, Standing::NONE);
        let Some(pool) = self.pools.get_mut(&id) else { return };
        pool.workers -= 1;
        if pool.workers > 0 {
            return;
        }
        for model in &pool.models {
            if let Some(pools) = self.of_model.get_mut(model) {
                pools.retain(|of| *of != id);
                if pools.is_empty() {
                    self.of_model.remove(model);
                }
            }
        }
        if let Some(pool) = self.pools.remove(&id) {
            self.by_models.remove(&pool.models);
        }
    }

    /// A worker's standing changed.
    pub(crate) fn place(&mut self, id: PoolId, worker: WorkerId, old: Standing, new: Standing) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        if let Some(load) = old.free {
            pool.free.remove(&(load, worker));
        }
        if let Some(at) = old.busy {
            pool.busy.remove(&(old.is_stuck, at, worker));
        }
        if let Some(load) = new.free {
            pool.free.insert((load, worker));
        }
        if let Some(at) = new.busy {
            pool.busy.insert((new.is_stuck, at, worker));
        }
        pool.stuck = pool.stuck + u32::from(new.is_stuck) - u32::from(old.is_stuck);
    }

    /// What a model waits with for its workers changed. Some of them may not know the `old`, if they are fresh.
    pub(crate) fn list(&mut self, model: ModelId, old: &Heads, new: &Heads, is_fresh: bool) {
        for id in self.of_model.get(&model).into_iter().flatten() {
            let Some(pool) = self.pools.get_mut(id) else { continue };
            for (lane, (old, new)) in pool.lanes.iter_mut().zip(old.iter().zip(new)) {
                if old == new && !is_fresh {
                    continue;
                }
                if let Some(old) = old {
                    lane.remove(&(*old, model));
                }
                if let Some(new) = new {
                    lane.insert((*new, model));
                }
            }
        }
    }

    /// The model that must start first, of those that a free worker holds.
    pub(crate) fn most_urgent(&self) -> Option<ModelId> {
        let pools = self.pools.values().filter(|pool| pool.usable().next().is_some());
        let first = |pool: &Pool| {
            let mut lanes = pool.lanes.iter().enumerate();
            lanes.find_map(|(lane, models)| Some((lane, *models.first()?)))
        };
        pools.filter_map(first).min().map(|(_, (_, model))| model)
    }

    /// When a model that does not get a worker of the pool now finds the next one free.
    pub(crate) fn next_free(&self, id: PoolId, now: Timestamp) -> Timestamp {
        let Some(pool) = self.pools.get(&id) else { return now };
        let is_last = pool.usable().nth(1).is_none();
        let next = pool.busy.first().filter(|(is_stuck, ..)| is_last && (!is_stuck || pool.are_all_stuck()));
        next.map_or(now, |(_, at, _)| (*at).max(now))
    }

    /// Models that wait for workers of the pool in a class, the one that must start first before the others.
    pub(crate) fn waiting(&self, id: PoolId, class: Class) -> impl Iterator<Item = ModelId> {
        self.lane(id, class as usize)
    }

    /// The same of models that have late requests.
    pub(crate) fn waiting_late(&self, id: PoolId) -> impl Iterator<Item = ModelId> {
        self.lane(id, LATE)
    }

    /// The free workers that hold a model, from each pool those with the least to do first.
    pub(crate) fn free(&self, model: ModelId) -> impl Iterator<Item = impl Iterator<Item = (Load, WorkerId)>> {
        self.holding(model).map(Pool::usable)
    }

    /// Of them those that have nothing to do.
    pub(crate) const fn idle(&self, model: ModelId) -> Idle<'_> {
        Idle { pools: self, model }
    }

    /// When the first so many workers that hold the model are thought to be free, in order.
    pub(crate) fn free_times(&self, model: ModelId, now: Timestamp, count: usize) -> Vec<(Timestamp, WorkerId)> {
        let mut times = Vec::new();
        for pool in self.holding(model) {
            let free = pool.usable().map(|(_, worker)| (now, worker));
            let busy = pool.busy.iter().filter(|(is_stuck, ..)| !is_stuck || pool.are_all_stuck());
            times.extend(free.chain(busy.map(|(_, at, worker)| ((*at).max(now), *worker))).take(count));
        }
        times.sort_unstable();
        times.truncate(count);
        times
    }

    /// The worker with the least to do of those that are free.
    pub(crate) fn first_free(&self, id: PoolId) -> Option<WorkerId> {
        Some(self.pools.get(&id)?.usable().next()?.1)
    }

    /// Whether the pool has a worker still.
    pub(crate) fn exists(&self, id: PoolId) -> bool {
        self.pools.contains_key(&id)
    }

    /// How many workers hold a model.
    pub(crate) fn workers(&self, model: ModelId) -> u32 {
        self.holding(model).map(|pool| pool.workers).sum()
    }

    /// Derives the list of pools that hold each model anew.
    pub(crate) fn assert_invariants(&self) {
        let mut of_model = BTreeMap::<ModelId, BTreeSet<PoolId>>::new();
        for (id, pool) in &self.pools {
            assert_eq!(self.by_models.get(&pool.models), Some(id), "a pool is known by its models");
            assert!(pool.workers as usize >= pool.free.len().max(pool.busy.len()), "a worker is in its pool");
            for model in &pool.models {
                of_model.entry(*model).or_default().insert(*id);
            }
        }
        let found = self.of_model.iter().map(|(model, pools)| (*model, pools.iter().copied().collect()));
        assert_eq!(found.collect::<BTreeMap<ModelId, BTreeSet<PoolId>>>(), of_model, "the pools of each model");
        assert!(self.pools.values().all(|pool| pool.workers > 0), "a pool has workers");
    }

    /// Checks what is listed of a model in each pool that holds it.
    pub(crate) fn assert_listed(&self, model: ModelId, heads: &Heads) {
        for pool in self.holding(model) {
            for (lane, head) in pool.lanes.iter().zip(heads) {
                let listed = lane.iter().filter(|(_, of)| *of == model).map(|(head, _)| *head);
                assert!(listed.eq(*head), "model {model} is listed as it waits");
            }
        }
    }

    fn lane(&self, id: PoolId, lane: usize) -> impl Iterator<Item = ModelId> {
        self.pools.get(&id).into_iter().flat_map(move |pool| pool.lanes[lane].iter().map(|(_, model)| *model))
    }

    fn holding(&self, model: ModelId) -> impl Iterator<Item = &Pool> {
        self.of_model.get(&model).into_iter().flatten().filter_map(|id| self.pools.get(id))
    }
}

impl Pool {
    /// Those that are free, with the least to do first.
    fn usable(&self) -> impl Iterator<Item = (Load, WorkerId)> {
        self.free.iter().copied().filter(|(load, _)| !load.is_stuck || self.are_all_stuck())
    }

    fn are_all_stuck(&self) -> bool {
        self.stuck == self.workers
    }
}
