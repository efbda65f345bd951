//! What operators count: Prometheus instruments, declared in one place.
//!
//! Labels come from closed sets (configured models, connected workers, enum names), never from what a caller sent.

mod gpus;
mod latency;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use shoal_scheduler::{WaitCause, Waits};

pub use gpus::GpuHealth;
pub use latency::Latency;

use crate::explain::wait_name;
use crate::traces::SpanCounts;

use gpus::GpuGauges;

/// All instruments. Cheap to clone; every clone counts into the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    calls: Family<OutcomeLabels, Counter>,
    rejects: Family<ReasonLabels, Counter>,
    closes: Family<ReasonLabels, Counter>,
    call_duration: Family<ModelLabels, latency::Histogram, fn() -> latency::Histogram>,
    queue_duration: Family<ModelLabels, latency::Histogram, fn() -> latency::Histogram>,
    waits: Family<ReasonLabels, Counter<f64, AtomicU64>>,
    compute_duration: Family<ModelLabels, latency::Histogram, fn() -> latency::Histogram>,
    page_ins: Family<ModelLabels, Counter>,
    page_in_seconds: Family<ModelLabels, Counter<f64, AtomicU64>>,
    batch_rows: Family<ModelLabels, Histogram, fn() -> Histogram>,
    batch_tokens: Family<ModelLabels, Histogram, fn() -> Histogram>,
    queued_rows: Family<ModelLabels, Gauge>,
    late_rows: Family<ModelLabels, Counter>,
    hedged_batches: Family<ModelLabels, Counter>,
    joined_batches: Family<ModelLabels, Counter>,
    quarantined_inputs: Family<ModelLabels, Gauge>,
    probes: Family<ModelLabels, Counter>,
    batch_cost: Family<PartLabels, Gauge<f64, AtomicU64>>,
    model_workers: Family<ModelLabels, Gauge>,
    model_wanted: Family<ModelLabels, Gauge>,
    configurations: Family<ConfigurationLabels, Counter>,
    configuration_refused: Gauge,
    worker_up: Family<WorkerLabels, Gauge>,
    pool_workers: Family<PoolLabels, Gauge>,
    pool_queued: Family<PoolLabels, Gauge<f64, AtomicU64>>,
    pool_compute: Family<PoolLabels, Counter<f64, AtomicU64>>,
    worker_restarts: Family<WorkerLabels, Counter>,
    gpus: GpuGauges,
    /// What became of spans.
    pub spans: SpanCounts,
    handshake_failures: Family<PortLabels, Counter>,
    certificate_expiry: Family<PortLabels, Gauge>,
    denials: Family<DenialLabels, Counter>,
    /// Client connections open.
    pub connections: Gauge,
    /// Calls of clients from their headers to the last byte of their answer.
    pub streams: Gauge,
    /// Tasks alive that serve.
    pub tasks: Gauge,
    resident_memory: Gauge,
    /// Calls without an answer.
    pub calls_in_flight: Gauge,
    /// Rows with a worker.
    pub rows_in_flight: Gauge,
    /// Workers that were slow and have not shown since that they are well.
    pub suspect_workers: Gauge,
    /// Replies of workers dropped for a stale epoch or attempt.
    pub stale_replies: Gauge<u64, AtomicU64>,
}

/// The instruments of one model, looked up once.
#[derive(Clone, Debug)]
pub struct ModelMetrics {
    all: Metrics,
    model: Arc<str>,
    pub call_duration: Latency,
    pub queue_duration: Latency,
    pub compute_duration: Latency,
    pub page_ins: Counter,
    pub page_in_seconds: Counter<f64, AtomicU64>,
    pub batch_rows: Histogram,
    pub batch_tokens: Histogram,
    pub queued_rows: Gauge,
    pub late_rows: Counter,
    pub hedged_batches: Counter,
    pub joined_batches: Counter,
    pub quarantined_inputs: Gauge,
    pub probes: Counter,
    pub workers: Gauge,
    pub wanted: Gauge,
    /// In the order of [`WaitCause::ALL`].
    waits: [Counter<f64, AtomicU64>; WaitCause::ALL.len()],
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    model: String,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    model: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartLabels {
    model: String,
    part: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ConfigurationLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WorkerLabels {
    worker: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PortLabels {
    port: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DenialLabels {
    port: &'static str,
    code: &'static str,
}

/// Parts of what a batch costs, as labels name them.
pub const COST_PARTS: [&str; 4] = ["batch", "row", "token", "token_squared"];

/// Adds one to a gauge for as long as it lives.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    /// One more, until it is dropped.
    pub fn one(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// 1 to 4096.
fn rows_histogram() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 13))
}

/// 1 to 65,536.
fn tokens_histogram() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 9))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Declares every instrument.
    pub fn new() -> Self {
        let duration = || Family::new_with_constructor(latency::histogram as fn() -> latency::Histogram);
        let mut metrics = Self {
            registry: Arc::default(),
            calls: Family::default(),
            rejects: Family::default(),
            closes: Family::default(),
            call_duration: duration(),
            queue_duration: duration(),
            waits: Family::default(),
            compute_duration: duration(),
            page_ins: Family::default(),
            page_in_seconds: Family::default(),
            batch_rows: Family::new_with_constructor(rows_histogram as fn() -> Histogram),
            batch_tokens: Family::new_with_constructor(tokens_histogram as fn() -> Histogram),
            queued_rows: Family::default(),
            late_rows: Family::default(),
            hedged_batches: Family::default(),
            joined_batches: Family::default(),
            quarantined_inputs: Family::default(),
            probes: Family::default(),
            batch_cost: Family::default(),
            model_workers: Family::default(),
            model_wanted: Family::default(),
            configurations: Family::default(),
            configuration_refused: Gauge::default(),
            worker_up: Family::default(),
            pool_workers: Family::default(),
            pool_queued: Family::default(),
            pool_compute: Family::default(),
            worker_restarts: Family::default(),
            gpus: GpuGauges::default(),
            spans: SpanCounts::default(),
            handshake_failures: Family::default(),
            certificate_expiry: Family::default(),
            denials: Family::default(),
            connections: Gauge::default(),
            streams: Gauge::default(),
            tasks: Gauge::default(),
            resident_memory: Gauge::default(),
            calls_in_flight: Gauge::default(),
            rows_in_flight: Gauge::default(),
            suspect_workers: Gauge::default(),
            stale_replies: Gauge::default(),
        };
        metrics.registry = Arc::new(metrics.registered());
        metrics
    }

    /// Everything in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }

    /// The instruments of one model.
    pub fn model(&self, model: &Arc<str>) -> ModelMetrics {
        let labels = ModelLabels { model: model.to_string() };
        ModelMetrics {
            call_duration: Latency(self.call_duration.get_or_create_owned(&labels)),
            queue_duration: Latency(self.queue_duration.get_or_create_owned(&labels)),
            compute_duration: Latency(self.compute_duration.get_or_create_owned(&labels)),
            page_ins: self.page_ins.get_or_create_owned(&labels),
            page_in_seconds: self.page_in_seconds.get_or_create_owned(&labels),
            batch_rows: self.batch_rows.get_or_create_owned(&labels),
            batch_tokens: self.batch_tokens.get_or_create_owned(&labels),
            queued_rows: self.queued_rows.get_or_create_owned(&labels),
            late_rows: self.late_rows.get_or_create_owned(&labels),
            hedged_batches: self.hedged_batches.get_or_create_owned(&labels),
            joined_batches: self.joined_batches.get_or_create_owned(&labels),
            quarantined_inputs: self.quarantined_inputs.get_or_create_owned(&labels),
            probes: self.probes.get_or_create_owned(&labels),
            workers: self.model_workers.get_or_create_owned(&labels),
            wanted: self.model_wanted.get_or_create_owned(&labels),
            waits: WaitCause::ALL.map(|cause| {
                let labels = ReasonLabels { model: model.to_string(), reason: wait_name(cause) };
                self.waits.get_or_create_owned(&labels)
            }),
            all: self.clone(),
            model: model.clone(),
        }
    }

    /// A model is served no more: nothing is so of it now. What was counted stays.
    pub fn forget_model(&self, model: &str) {
        let labels = ModelLabels { model: model.to_owned() };
        for gauges in [&self.queued_rows, &self.quarantined_inputs, &self.model_workers, &self.model_wanted] {
            gauges.remove(&labels);
        }
        for part in COST_PARTS {
            self.batch_cost.remove(&PartLabels { model: model.to_owned(), part });
        }
    }

    /// The configuration was read again, and taken or not.
    pub fn configured(&self, taken: bool) {
        let outcome = if taken { "taken" } else { "refused" };
        self.configurations.get_or_create(&ConfigurationLabels { outcome }).inc();
        self.configuration_refused.set((!taken).into());
    }

    /// Whether a worker is connected.
    pub fn worker_up(&self, worker: &str, up: bool) {
        self.worker_up.get_or_create(&WorkerLabels { worker: worker.to_owned() }).set(i64::from(up));
    }

    /// A worker elsewhere is gone, and its name with it.
    pub fn forget_worker(&self, worker: &str) {
        self.worker_up.remove(&WorkerLabels { worker: worker.to_owned() });
    }

    /// How many workers a pool has, and how much work waits for all of them together.
    pub fn pool(&self, pool: &str, workers: u32, queued: Duration) {
        let labels = PoolLabels { pool: pool.to_owned() };
        self.pool_workers.get_or_create(&labels).set(workers.into());
        let each = queued.as_secs_f64() / f64::from(workers.max(1));
        self.pool_queued.get_or_create(&labels).set(each);
    }

    /// A worker of a pool computed for so long.
    pub fn pool_computed(&self, pool: &str, compute: Duration) {
        self.pool_compute.get_or_create(&PoolLabels { pool: pool.to_owned() }).inc_by(compute.as_secs_f64());
    }

    /// A pool has no workers any more.
    pub fn forget_pool(&self, pool: &str) {
        let labels = PoolLabels { pool: pool.to_owned() };
        self.pool_workers.remove(&labels);
        self.pool_queued.remove(&labels);
        self.pool_compute.remove(&labels);
    }

    /// What is known of a worker's GPU now; none if that is nothing any more.
    pub fn gpu(&self, worker: &Arc<str>, health: Option<GpuHealth>) {
        self.gpus.set(worker, health);
    }

    /// A connection to this port did not get through its TLS handshake.
    pub fn handshake_failed(&self, port: &'static str) {
        self.handshake_failures.get_or_create(&PortLabels { port }).inc();
    }

    /// When the certificate of this port expires, in Unix time.
    pub fn certificate_expiry(&self, port: &'static str, at: i64) {
        self.certificate_expiry.get_or_create(&PortLabels { port }).set(at);
    }

    /// A call to this port was denied, with this gRPC status.
    pub fn denied(&self, port: &'static str, code: &'static str) {
        self.denials.get_or_create(&DenialLabels { port, code }).inc();
    }

    /// A local worker's process was started again.
    pub fn worker_restarted(&self, worker: &str) {
        self.worker_restarts.get_or_create(&WorkerLabels { worker: worker.to_owned() }).inc();
    }

    /// Reads how much memory the process has. Where the system does not say, it stays zero.
    pub fn measure_memory(&self) {
        let Ok(statm) = std::fs::read_to_string("/proc/self/statm") else { return };
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<i64>().ok());
        self.resident_memory.set(pages.unwrap_or(0) * rustix::param::page_size() as i64);
    }

    fn registered(&self) -> Registry {
        let mut registry = Registry::with_prefix("shoal");
        registry.register("calls", "Calls ended, by gRPC status", self.calls.clone());
        registry.register("rejects", "Calls refused or ended without a result, by reason", self.rejects.clone());
        registry.register("batches", "Batches sent to workers, by why they were closed", self.closes.clone());
        let seconds = |registry: &mut Registry, name: &str, help: &str, family: &Family<_, _, _>| {
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
        };
        seconds(&mut registry, "call_duration", "Admission to answer, per call", &self.call_duration);
        seconds(&mut registry, "queue_duration", "Admission to dispatch, per row", &self.queue_duration);
        let waits = "What rows waited for, summed over rows";
        registry.register_with_unit("wait", waits, Unit::Seconds, self.waits.clone());
        seconds(&mut registry, "compute_duration", "Compute time, per batch", &self.compute_duration);
        let page_ins = "Batches before which the model's weights had to come onto a device";
        registry.register("model_page_ins", page_ins, self.page_ins.clone());
        let page_in = "How much later those batches were done for it";
        registry.register_with_unit("model_page_in", page_in, Unit::Seconds, self.page_in_seconds.clone());
        registry.register("batch_rows", "Rows per batch", self.batch_rows.clone());
        registry.register("batch_tokens", "Tokens per batch", self.batch_tokens.clone());
        registry.register("queued_rows", "Rows waiting", self.queued_rows.clone());
        let late = "Rows that could not be on time any more and went behind others";
        registry.register("late_rows", late, self.late_rows.clone());
        let hedged = "Batches run a second time, because the first was slow";
        registry.register("hedged_batches", hedged, self.hedged_batches.clone());
        let joined = "Batches that a worker ran as one with what other servers sent";
        registry.register("joined_batches", joined, self.joined_batches.clone());
        registry.register(
            "suspect_workers",
            "Workers that were slow and are not trusted",
            self.suspect_workers.clone(),
        );
        registry.register("quarantined_inputs", "Inputs refused as poison", self.quarantined_inputs.clone());
        registry.register("probes", "Batches run to find out what batches cost", self.probes.clone());
        let cost = "What a batch, and each row and token of it, was found to take";
        registry.register_with_unit("batch_cost", cost, Unit::Seconds, self.batch_cost.clone());
        registry.register("model_workers", "Workers that hold the model ready", self.model_workers.clone());
        let wanted = "1 while the model is to be in memory";
        registry.register("model_wanted", wanted, self.model_wanted.clone());
        registry.register("worker_up", "1 while the worker is connected", self.worker_up.clone());
        let configurations = "Configurations read while serving, by what became of them";
        registry.register("configurations", configurations, self.configurations.clone());
        let refused = "1 while the configuration file says what was refused";
        registry.register("configuration_refused", refused, self.configuration_refused.clone());
        registry.register("pool_workers", "Connected workers of the pool", self.pool_workers.clone());
        let queued = "Work that waits for each worker of the pool, in the time it takes in large batches";
        registry.register_with_unit("pool_queued_per_worker", queued, Unit::Seconds, self.pool_queued.clone());
        let compute = "Compute time of the pool's workers";
        registry.register_with_unit("pool_compute", compute, Unit::Seconds, self.pool_compute.clone());
        registry.register("worker_restarts", "Restarts of local workers", self.worker_restarts.clone());
        registry.register_collector(Box::new(self.gpus.clone()));
        let SpanCounts { exported, dropped, failed } = self.spans.clone();
        registry.register("trace_spans_exported", "Spans that the collector took", exported);
        registry.register("trace_spans_dropped", "Spans that the queue to the collector had no place for", dropped);
        registry.register("trace_spans_failed", "Spans that the collector did not take", failed);
        let failures = "Connections that did not get through their TLS handshake";
        registry.register("tls_handshake_failures", failures, self.handshake_failures.clone());
        let expiry = "When the certificate in use expires, in Unix time";
        let name = "tls_certificate_expiry_timestamp";
        registry.register_with_unit(name, expiry, Unit::Seconds, self.certificate_expiry.clone());
        let denials = "Calls of nobody known, and of those who may not";
        registry.register("denied_calls", denials, self.denials.clone());
        registry.register("connections", "Client connections open", self.connections.clone());
        registry.register("streams", "Calls open, the reading of their answers included", self.streams.clone());
        registry.register("tasks", "Tasks alive that serve", self.tasks.clone());
        let memory = self.resident_memory.clone();
        registry.register_with_unit("resident_memory", "Memory of the server's process", Unit::Bytes, memory);
        registry.register("calls_in_flight", "Calls without an answer", self.calls_in_flight.clone());
        registry.register("rows_in_flight", "Rows with a worker", self.rows_in_flight.clone());
        registry.register("stale_replies", "Replies of workers dropped as stale", self.stale_replies.clone());
        registry
    }
}

impl ModelMetrics {
    /// A call ended with this gRPC status.
    pub fn call(&self, code: &'static str) {
        self.all.calls.get_or_create(&OutcomeLabels { model: self.model.to_string(), code }).inc();
    }

    /// A call was refused, or ended without a result, for this reason.
    pub fn reject(&self, reason: &'static str) {
        self.all.rejects.get_or_create(&ReasonLabels { model: self.model.to_string(), reason }).inc();
    }

    /// What a batch costs by itself, and for each row, token and squared token, in seconds.
    pub fn batch_cost(&self, seconds: [f64; 4]) {
        for (part, seconds) in COST_PARTS.into_iter().zip(seconds) {
            self.all.batch_cost.get_or_create(&PartLabels { model: self.model.to_string(), part }).set(seconds);
        }
    }

    /// Rows waited so long in all.
    pub fn waited(&self, waits: Waits) {
        for (cause, counter) in WaitCause::ALL.into_iter().zip(&self.waits) {
            let time = waits.of(cause);
            if !time.is_zero() {
                counter.inc_by(time.as_secs_f64());
            }
        }
    }

    /// A batch was closed for this reason.
    pub fn close(&self, reason: &'static str) {
        self.all.closes.get_or_create(&ReasonLabels { model: self.model.to_string(), reason }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metrics are the rows of one table, each with its unit and kind, and the table has no others.
    #[test]
    fn the_page_and_its_table_have_the_same_metrics() {
        let document = include_str!("../docs/metrics.md");
        let metrics = Metrics::new();
        // What nothing was counted of yet is not on the page.
        let model = metrics.model(&"m".into());
        model.call("OK");
        model.reject("late");
        model.close("rows");
        model.batch_cost([1.0; 4]);
        metrics.worker_up("w", true);
        metrics.worker_restarted("w");
        metrics.configured(true);
        metrics.handshake_failed("grpc");
        metrics.certificate_expiry("grpc", 1);
        metrics.denied("grpc", "UNAUTHENTICATED");
        metrics.pool("p", 1, Duration::ZERO);
        metrics.pool_computed("p", Duration::ZERO);
        let (uuid, name, bytes, ratio) = ("GPU-1".to_owned(), "NVIDIA H200".to_owned(), Some(1), Some(1.0));
        metrics.gpu(
            &"w".into(),
            Some(GpuHealth {
                uuid,
                name,
                memory_bytes: bytes,
                memory_used_bytes: bytes,
                power_watts: ratio,
                temperature_celsius: ratio,
                utilization_ratio: ratio,
            }),
        );
        let page = metrics.encode().expect("page");
        let about = |keyword: &str| {
            let lines = page.lines().filter_map(|line| line.strip_prefix("# ")?.strip_prefix(keyword)?.split_once(' '));
            lines.collect::<std::collections::BTreeMap<_, _>>()
        };
        let (kinds, units) = (about("TYPE "), about("UNIT "));
        let mut told = Vec::new();
        for line in document.lines().filter(|line| line.starts_with("| `shoal_")) {
            let columns: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, unit, ..] = columns[..] else { panic!("{line}") };
            let name = name.trim_matches('`');
            // On the page a counter's type is without the suffix that its samples have.
            let name = if kind == "counter" { name.strip_suffix("_total").expect("_total") } else { name };
            assert_eq!(kinds.get(name).copied(), Some(kind), "{line}");
            assert!(!unit.is_empty(), "{line}");
            assert_eq!(units.get(name).copied().unwrap_or(unit), unit, "{line}");
            told.push(name);
        }
        told.sort_unstable();
        assert_eq!(told, kinds.into_keys().collect::<Vec<_>>(), "each once, and no others");
    }
}
