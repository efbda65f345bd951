//! What operators count: Prometheus instruments, declared in one place.
//!
//! Labels come from closed sets (configured models, connected workers, enum names), never from what a caller sent.

mod gpus;
mod latency;
mod models;
mod ports;
mod workers;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

pub use gpus::GpuHealth;
pub use latency::Latency;
pub use models::{COST_PARTS, ModelMetrics};

use crate::traces::SpanCounts;

use gpus::GpuGauges;
use models::Models;
use ports::Ports;
use workers::Workers;

/// All instruments. Cheap to clone; every clone counts into the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    models: Models,
    workers: Workers,
    gpus: GpuGauges,
    ports: Ports,
    configurations: Family<ConfigurationLabels, Counter>,
    configuration_refused: Gauge,
    /// What became of spans.
    pub spans: SpanCounts,
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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ConfigurationLabels {
    outcome: &'static str,
}

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

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Declares every instrument.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            models: Models::new(),
            workers: Workers::default(),
            gpus: GpuGauges::default(),
            ports: Ports::default(),
            configurations: Family::default(),
            configuration_refused: Gauge::default(),
            spans: SpanCounts::default(),
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
        self.models.of(model)
    }

    /// A model is served no more: nothing is so of it now. What was counted stays.
    pub fn forget_model(&self, model: &str) {
        self.models.forget(model);
    }

    /// The configuration was read again, and taken or not.
    pub fn configured(&self, taken: bool) {
        let outcome = if taken { "taken" } else { "refused" };
        self.configurations.get_or_create(&ConfigurationLabels { outcome }).inc();
        self.configuration_refused.set((!taken).into());
    }

    /// Whether a worker is connected.
    pub fn worker_up(&self, worker: &str, up: bool) {
        self.workers.up(worker, up);
    }

    /// A worker elsewhere is gone, and its name with it.
    pub fn forget_worker(&self, worker: &str) {
        self.workers.forget(worker);
    }

    /// A local worker's process was started again.
    pub fn worker_restarted(&self, worker: &str) {
        self.workers.restarted(worker);
    }

    /// How many workers a pool has, and how much work waits for all of them together.
    pub fn pool(&self, pool: &str, workers: u32, queued: Duration) {
        self.workers.pool(pool, workers, queued);
    }

    /// A worker of a pool computed for so long.
    pub fn pool_computed(&self, pool: &str, compute: Duration) {
        self.workers.pool_computed(pool, compute);
    }

    /// A pool has no workers any more.
    pub fn forget_pool(&self, pool: &str) {
        self.workers.forget_pool(pool);
    }

    /// What is known of a worker's GPU now; none if that is nothing any more.
    pub fn gpu(&self, worker: &Arc<str>, health: Option<GpuHealth>) {
        self.gpus.set(worker, health);
    }

    /// A connection to this port did not get through its TLS handshake.
    pub fn handshake_failed(&self, port: &'static str) {
        self.ports.handshake_failed(port);
    }

    /// When the certificate of this port expires, in Unix time.
    pub fn certificate_expiry(&self, port: &'static str, at: i64) {
        self.ports.certificate_expiry(port, at);
    }

    /// A call to this port was denied, with this gRPC status.
    pub fn denied(&self, port: &'static str, code: &'static str) {
        self.ports.denied(port, code);
    }

    /// Reads how much memory the process has. Where the system does not say, it stays zero.
    pub fn measure_memory(&self) {
        let Ok(statm) = std::fs::read_to_string("/proc/self/statm") else { return };
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<i64>().ok());
        self.resident_memory.set(pages.unwrap_or(0) * rustix::param::page_size() as i64);
    }

    fn registered(&self) -> Registry {
        let mut registry = Registry::with_prefix("shoal");
        self.models.register(&mut registry);
        self.workers.register(&mut registry);
        registry.register_collector(Box::new(self.gpus.clone()));
        self.ports.register(&mut registry);
        let all = self.clone();
        let help = "Configurations read while serving, by what became of them";
        registry.register("configurations", help, all.configurations);
        let help = "1 while the configuration file says what was refused";
        registry.register("configuration_refused", help, all.configuration_refused);
        let SpanCounts { exported, dropped, failed } = all.spans;
        registry.register("trace_spans_exported", "Spans that the collector took", exported);
        registry.register("trace_spans_dropped", "Spans that the queue to the collector had no place for", dropped);
        registry.register("trace_spans_failed", "Spans that the collector did not take", failed);
        registry.register("connections", "Client connections open", all.connections);
        registry.register("streams", "Calls open, the reading of their answers included", all.streams);
        registry.register("tasks", "Tasks alive that serve", all.tasks);
        let help = "Memory of the server's process";
        registry.register_with_unit("resident_memory", help, Unit::Bytes, all.resident_memory);
        registry.register("calls_in_flight", "Calls without an answer", all.calls_in_flight);
        registry.register("rows_in_flight", "Rows with a worker", all.rows_in_flight);
        registry.register("suspect_workers", "Workers that were slow and are not trusted", all.suspect_workers);
        registry.register("stale_replies", "Replies of workers dropped as stale", all.stale_replies);
        registry
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
