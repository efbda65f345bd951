//! Workers that are alike and are scaled together: what waits for each pool, and how busy it was.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use shoal_scheduler::{ModelId, Timestamp, WorkerId};

use super::Driver;
use super::models::Model;

/// How long a pool is looked back on to say how busy it is: long enough to be no accident, short enough to be scaled by.
const WINDOW: Duration = Duration::from_secs(60);
/// In pieces of so much.
const PIECE: Duration = Duration::from_secs(5);

/// How a pool of workers stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PoolStanding {
    /// Its workers that are connected.
    pub workers: u32,
    /// The time of one worker that all takes which waits for it.
    pub queued: Duration,
    /// How many of its workers computed, in the mean of the last minute.
    pub busy: f64,
    /// Calls without an answer for models that no other pool holds, those that wait for a model to be loaded among them.
    pub open_calls: u64,
    /// When the last call for one of these models came, from now.
    pub last_call: Option<Duration>,
    /// Of the models that other pools hold as well, the most that waits for each of the workers that hold one.
    pub queued_elsewhere: Duration,
}

/// How much each pool computed lately.
#[derive(Debug, Default)]
pub(super) struct Busy(BTreeMap<Arc<str>, VecDeque<(Timestamp, Duration)>>);

impl Busy {
    /// A worker of a pool computed for so long.
    pub(super) fn add(&mut self, now: Timestamp, pool: &Arc<str>, compute: Duration) {
        let pieces = self.0.entry(pool.clone()).or_default();
        match pieces.back_mut() {
            Some((since, sum)) if now.since(*since) < PIECE => *sum += compute,
            _ => pieces.push_back((now, compute)),
        }
        let is_old = |(since, _): &(Timestamp, Duration)| now.since(*since) > WINDOW;
        while pieces.pop_front_if(|piece| is_old(piece)).is_some() {}
    }

    /// How many workers that is, in the mean of the last minute.
    fn workers(&self, now: Timestamp, pool: &str) -> f64 {
        let pieces = self.0.get(pool).into_iter().flatten();
        let lately = pieces.filter(|(since, _)| now.since(*since) <= WINDOW);
        lately.map(|(_, compute)| compute.as_secs_f64()).sum::<f64>() / WINDOW.as_secs_f64()
    }

    fn forget(&mut self, pool: &str) {
        self.0.remove(pool);
    }
}

impl Driver {
    /// How a pool stands, for these models, or for those that its workers can load when none are named: for all where it
    /// has no workers.
    pub(super) fn pool(&self, now: Timestamp, pool: &str, named: &[Arc<str>]) -> PoolStanding {
        let workers: BTreeSet<WorkerId> = self.fleet.of_pool(pool).map(|worker| worker.id).collect();
        let can_load = |name: &str| self.fleet.of_pool(pool).any(|worker| worker.can_load(name));
        let is_meant = |(_, model): &(ModelId, &Model)| match named {
            [] => workers.is_empty() || can_load(&model.settings.name),
            named => named.contains(&model.settings.name),
        };
        let mut standing = PoolStanding {
            workers: u32::try_from(workers.len()).unwrap_or(u32::MAX),
            busy: self.busy.workers(now, pool),
            ..PoolStanding::default()
        };
        for (id, model) in self.models.iter().filter(is_meant) {
            let work = self.core.queue(id).map_or(Duration::ZERO, |queue| queue.work);
            let holders = model.ready_workers();
            let ours = workers.iter().filter(|worker| model.is_ready_on(**worker)).count();
            // What other pools hold as well is theirs in part; what nobody holds is whoever's could.
            standing.queued += match u32::try_from(ours) {
                Ok(ours) if holders > 0 => work * ours / holders,
                _ => work,
            };
            let ours = u32::try_from(ours).unwrap_or(u32::MAX);
            if holders > ours {
                standing.queued_elsewhere = standing.queued_elsewhere.max(work / holders);
                continue;
            }
            standing.open_calls += model.open_calls + model.awaited();
            let ago = model.last_call.map(|at| now.since(at));
            standing.last_call = standing.last_call.into_iter().chain(ago).min();
        }
        standing
    }

    /// Says how each pool stands that has workers, and nothing of those that have none any more.
    pub(super) fn measure_pools(&mut self, now: Timestamp) {
        let pools: BTreeSet<Arc<str>> = self.fleet.iter().map(|worker| worker.pool.clone()).collect();
        for pool in &pools {
            let standing = self.pool(now, pool, &[]);
            self.around.metrics.pool(pool, standing.workers, standing.queued);
        }
        for gone in std::mem::replace(&mut self.pools, pools) {
            if !self.pools.contains(&gone) {
                self.around.metrics.forget_pool(&gone);
                self.busy.forget(&gone);
            }
        }
    }

    /// A worker was busy with a batch for so long.
    pub(super) fn count_busy(&mut self, now: Timestamp, worker: WorkerId, compute: Duration) {
        let Some(pool) = self.fleet.iter().find(|known| known.id == worker).map(|known| known.pool.clone()) else {
            return;
        };
        self.around.metrics.pool_computed(&pool, compute);
        self.busy.add(now, &pool, compute);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_busy_a_pool_was_is_forgotten_after_a_minute() {
        let (mut busy, pool) = (Busy::default(), Arc::<str>::from("gpu"));
        for second in 0..120 {
            busy.add(Timestamp::from_millis(1_000 * second), &pool, Duration::from_millis(1_500));
        }
        let at = |seconds: u64| busy.workers(Timestamp::from_millis(1_000 * seconds), "gpu");
        // Within a piece of it.
        assert!((1.5..=1.65).contains(&at(119)), "{}", at(119));
        assert!((0.7..=0.8).contains(&at(150)), "{}", at(150));
        assert_eq!(at(180), 0.0);
        assert_eq!(busy.workers(Timestamp::from_millis(119_000), "cpu"), 0.0);
        assert!(busy.0["gpu"].len() <= 13);
    }
}
