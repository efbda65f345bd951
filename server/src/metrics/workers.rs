//! What is counted of workers and of the pools that they are in.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The instruments of all workers and pools.
#[derive(Clone, Debug, Default)]
pub(super) struct Workers {
    up: Family<WorkerLabels, Gauge>,
    restarts: Family<WorkerLabels, Counter>,
    in_pool: Family<PoolLabels, Gauge>,
    queued: Family<PoolLabels, Gauge<f64, AtomicU64>>,
    compute: Family<PoolLabels, Counter<f64, AtomicU64>>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WorkerLabels {
    worker: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
}

impl Workers {
    pub(super) fn register(&self, registry: &mut Registry) {
        let all = self.clone();
        registry.register("worker_up", "1 while the worker is connected", all.up);
        registry.register("worker_restarts", "Restarts of local workers", all.restarts);
        registry.register("pool_workers", "Connected workers of the pool", all.in_pool);
        let help = "Work that waits for each worker of the pool, in the time it takes in large batches";
        registry.register_with_unit("pool_queued_per_worker", help, Unit::Seconds, all.queued);
        let help = "Compute time of the pool's workers";
        registry.register_with_unit("pool_compute", help, Unit::Seconds, all.compute);
    }

    pub(super) fn up(&self, worker: &str, up: bool) {
        self.up.get_or_create(&WorkerLabels { worker: worker.to_owned() }).set(i64::from(up));
    }

    pub(super) fn restarted(&self, worker: &str) {
        self.restarts.get_or_create(&WorkerLabels { worker: worker.to_owned() }).inc();
    }

    pub(super) fn forget(&self, worker: &str) {
        self.up.remove(&WorkerLabels { worker: worker.to_owned() });
    }

    pub(super) fn pool(&self, pool: &str, workers: u32, queued: Duration) {
        let labels = PoolLabels { pool: pool.to_owned() };
        self.in_pool.get_or_create(&labels).set(workers.into());
        let each = queued.as_secs_f64() / f64::from(workers.max(1));
        self.queued.get_or_create(&labels).set(each);
    }

    pub(super) fn pool_computed(&self, pool: &str, compute: Duration) {
        self.compute.get_or_create(&PoolLabels { pool: pool.to_owned() }).inc_by(compute.as_secs_f64());
    }

    pub(super) fn forget_pool(&self, pool: &str) {
        let labels = PoolLabels { pool: pool.to_owned() };
        self.in_pool.remove(&labels);
        self.queued.remove(&labels);
        self.compute.remove(&labels);
    }
}
