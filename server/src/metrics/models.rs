//! What is counted of each model.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use shoal_scheduler::{WaitCause, Waits};

use super::latency::{self, Latency};
use crate::explain::wait_name;

type Latencies = Family<ModelLabels, latency::Histogram, fn() -> latency::Histogram>;
type Sizes = Family<ModelLabels, Histogram, fn() -> Histogram>;
type Seconds = Counter<f64, AtomicU64>;

/// The instruments of all models.
#[derive(Clone, Debug)]
pub(super) struct Models {
    calls: Family<OutcomeLabels, Counter>,
    rejects: Family<ReasonLabels, Counter>,
    closes: Family<ReasonLabels, Counter>,
    call_duration: Latencies,
    queue_duration: Latencies,
    waits: Family<ReasonLabels, Seconds>,
    compute_duration: Latencies,
    page_ins: Family<ModelLabels, Counter>,
    page_in_seconds: Family<ModelLabels, Seconds>,
    batch_rows: Sizes,
    batch_tokens: Sizes,
    queued_rows: Family<ModelLabels, Gauge>,
    late_rows: Family<ModelLabels, Counter>,
    hedged_batches: Family<ModelLabels, Counter>,
    joined_batches: Family<ModelLabels, Counter>,
    quarantined_inputs: Family<ModelLabels, Gauge>,
    probes: Family<ModelLabels, Counter>,
    batch_cost: Family<PartLabels, Gauge<f64, AtomicU64>>,
    workers: Family<ModelLabels, Gauge>,
    wanted: Family<ModelLabels, Gauge>,
}

/// The instruments of one model, looked up once.
#[derive(Clone, Debug)]
pub struct ModelMetrics {
    all: Models,
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

/// Parts of what a batch costs, as labels name them.
pub const COST_PARTS: [&str; 4] = ["batch", "row", "token", "token_squared"];

/// 1 to 4096.
fn rows_histogram() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 13))
}

/// 1 to 65,536.
fn tokens_histogram() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 9))
}

impl Models {
    pub(super) fn new() -> Self {
        let duration = || Latencies::new_with_constructor(latency::histogram);
        Self {
            calls: Family::default(),
            rejects: Family::default(),
            closes: Family::default(),
            call_duration: duration(),
            queue_duration: duration(),
            waits: Family::default(),
            compute_duration: duration(),
            page_ins: Family::default(),
            page_in_seconds: Family::default(),
            batch_rows: Sizes::new_with_constructor(rows_histogram),
            batch_tokens: Sizes::new_with_constructor(tokens_histogram),
            queued_rows: Family::default(),
            late_rows: Family::default(),
            hedged_batches: Family::default(),
            joined_batches: Family::default(),
            quarantined_inputs: Family::default(),
            probes: Family::default(),
            batch_cost: Family::default(),
            workers: Family::default(),
            wanted: Family::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let all = self.clone();
        registry.register("calls", "Calls ended, by gRPC status", all.calls);
        registry.register("rejects", "Calls refused or ended without a result, by reason", all.rejects);
        registry.register("batches", "Batches sent to workers, by why they were closed", all.closes);
        let durations = [
            ("call_duration", "Admission to answer, per call", all.call_duration),
            ("queue_duration", "Admission to dispatch, per row", all.queue_duration),
            ("compute_duration", "Compute time, per batch", all.compute_duration),
        ];
        for (name, help, family) in durations {
            registry.register_with_unit(name, help, Unit::Seconds, family);
        }
        let help = "What rows waited for, summed over rows";
        registry.register_with_unit("wait", help, Unit::Seconds, all.waits);
        let help = "Batches before which the model's weights had to come onto a device";
        registry.register("model_page_ins", help, all.page_ins);
        let help = "How much later those batches were done for it";
        registry.register_with_unit("model_page_in", help, Unit::Seconds, all.page_in_seconds);
        registry.register("batch_rows", "Rows per batch", all.batch_rows);
        registry.register("batch_tokens", "Tokens per batch", all.batch_tokens);
        registry.register("queued_rows", "Rows waiting", all.queued_rows);
        let help = "Rows that could not be on time any more and went behind others";
        registry.register("late_rows", help, all.late_rows);
        let help = "Batches run a second time, because the first was slow";
        registry.register("hedged_batches", help, all.hedged_batches);
        let help = "Batches that a worker ran as one with what other servers sent";
        registry.register("joined_batches", help, all.joined_batches);
        registry.register("quarantined_inputs", "Inputs refused as poison", all.quarantined_inputs);
        registry.register("probes", "Batches run to find out what batches cost", all.probes);
        let help = "What a batch, and each row and token of it, was found to take";
        registry.register_with_unit("batch_cost", help, Unit::Seconds, all.batch_cost);
        registry.register("model_workers", "Workers that hold the model ready", all.workers);
        registry.register("model_wanted", "1 while the model is to be in memory", all.wanted);
    }

    pub(super) fn of(&self, model: &Arc<str>) -> ModelMetrics {
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
            workers: self.workers.get_or_create_owned(&labels),
            wanted: self.wanted.get_or_create_owned(&labels),
            waits: WaitCause::ALL.map(|cause| {
                let labels = ReasonLabels { model: model.to_string(), reason: wait_name(cause) };
                self.waits.get_or_create_owned(&labels)
            }),
            all: self.clone(),
            model: model.clone(),
        }
    }

    /// What is so now is so of it no more. What was counted stays.
    pub(super) fn forget(&self, model: &str) {
        let labels = ModelLabels { model: model.to_owned() };
        for gauges in [&self.queued_rows, &self.quarantined_inputs, &self.workers, &self.wanted] {
            gauges.remove(&labels);
        }
        for part in COST_PARTS {
            self.batch_cost.remove(&PartLabels { model: model.to_owned(), part });
        }
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
