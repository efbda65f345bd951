//! Counts and times of one model since the server started, as the statistics extension reports them.
//!
//! Every count that clients compare with another is one and the same number here: perf_analyzer gives up when the
//! counts of queue, input, infer and output differ, and two atomics read in turn could.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shoal_proto::inference::{InferBatchStatistics, InferStatistics, ModelStatistics, StatisticDuration};

/// Batch sizes told apart. Larger batches are counted with those of this size.
const SIZES_MAX: u32 = 512;

/// Where the time of one call went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallTimes {
    /// From arrival to answer.
    pub total: Duration,
    /// From admission to dispatch.
    pub queue: Duration,
    /// Reading, checking and tokenising.
    pub compute_input: Duration,
    /// Running the model.
    pub compute_infer: Duration,
    /// Putting the answer together.
    pub compute_output: Duration,
}

/// Where the time of one batch went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTimes {
    /// Bringing the rows together and to the worker.
    pub compute_input: Duration,
    /// Running the model.
    pub compute_infer: Duration,
    /// Bringing the results back and apart.
    pub compute_output: Duration,
}

/// Counts of one model. Shared and written to without a lock.
#[derive(Debug)]
pub struct Statistics {
    success: AtomicU64,
    success_ns: AtomicU64,
    queue_ns: AtomicU64,
    compute_ns: Stages,
    fail: AtomicU64,
    fail_ns: AtomicU64,
    /// Rows of successful calls.
    inferences: AtomicU64,
    /// Milliseconds since the epoch.
    last_inference: AtomicU64,
    /// Batches of 1 row, of 2, and so on.
    batches: Box<[Batches]>,
}

/// Batches of one size.
#[derive(Debug, Default)]
struct Batches {
    count: AtomicU64,
    compute_ns: Stages,
}

/// Nanoseconds spent in each stage of computing.
#[derive(Debug, Default)]
struct Stages {
    input: AtomicU64,
    infer: AtomicU64,
    output: AtomicU64,
}

impl Statistics {
    /// Counts of a model whose batches have at most `batch_rows_max` rows.
    pub fn new(batch_rows_max: u32) -> Self {
        Self {
            success: AtomicU64::default(),
            success_ns: AtomicU64::default(),
            queue_ns: AtomicU64::default(),
            compute_ns: Stages::default(),
            fail: AtomicU64::default(),
            fail_ns: AtomicU64::default(),
            inferences: AtomicU64::default(),
            last_inference: AtomicU64::default(),
            batches: (0..batch_rows_max.clamp(1, SIZES_MAX)).map(|_| Batches::default()).collect(),
        }
    }

    /// Counts a call of `rows` rows that was answered `at` that moment.
    pub fn record_success(&self, rows: u32, times: &CallTimes, at: SystemTime) {
        // Times first: a reader in between sees a little too much time, never a call without any.
        add(&self.success_ns, times.total);
        add(&self.queue_ns, times.queue);
        self.compute_ns.add(times.compute_input, times.compute_infer, times.compute_output);
        self.inferences.fetch_add(rows.into(), Relaxed);
        let at = at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        self.last_inference.fetch_max(at, Relaxed);
        self.success.fetch_add(1, Relaxed);
    }

    /// Counts a call that failed after `total`, for whatever reason.
    pub fn record_failure(&self, total: Duration) {
        add(&self.fail_ns, total);
        self.fail.fetch_add(1, Relaxed);
    }

    /// Counts a batch of `rows` rows. To be called once per batch, whoever its rows belong to; a batch without rows is
    /// none.
    pub fn record_batch(&self, rows: u32, times: &BatchTimes) {
        let Some(index) = rows.checked_sub(1) else { return };
        // `new` makes at least one size.
        let index = usize::try_from(index).unwrap_or(usize::MAX).min(self.batches.len() - 1);
        let size = &self.batches[index];
        size.compute_ns.add(times.compute_input, times.compute_infer, times.compute_output);
        size.count.fetch_add(1, Relaxed);
    }

    /// The counts as they are now. `memory_usage` is for the caller to fill in.
    pub fn snapshot(&self, model: &str, version: &str) -> ModelStatistics {
        let success = self.success.load(Relaxed);
        let [input, infer, output] = self.compute_ns.durations(success);
        let batches: Vec<InferBatchStatistics> = (1..).zip(&self.batches).filter_map(Batches::snapshot).collect();
        ModelStatistics {
            name: model.to_owned(),
            version: version.to_owned(),
            last_inference: self.last_inference.load(Relaxed),
            inference_count: self.inferences.load(Relaxed),
            execution_count: batches.iter().filter_map(|size| size.compute_infer).map(|size| size.count).sum(),
            inference_stats: Some(InferStatistics {
                success: duration(success, &self.success_ns),
                fail: duration(self.fail.load(Relaxed), &self.fail_ns),
                queue: duration(success, &self.queue_ns),
                compute_input: input,
                compute_infer: infer,
                compute_output: output,
                // There is no cache; clients expect the counts all the same.
                cache_hit: Some(StatisticDuration::default()),
                cache_miss: Some(StatisticDuration::default()),
            }),
            batch_stats: batches,
            ..ModelStatistics::default()
        }
    }
}

impl Batches {
    fn snapshot((batch_size, batches): (u64, &Self)) -> Option<InferBatchStatistics> {
        let count = batches.count.load(Relaxed);
        let [compute_input, compute_infer, compute_output] = batches.compute_ns.durations(count);
        (count > 0).then_some(InferBatchStatistics { batch_size, compute_input, compute_infer, compute_output })
    }
}

impl Stages {
    fn add(&self, input: Duration, infer: Duration, output: Duration) {
        add(&self.input, input);
        add(&self.infer, infer);
        add(&self.output, output);
    }

    /// Input, infer, output, all counted `count` times.
    fn durations(&self, count: u64) -> [Option<StatisticDuration>; 3] {
        [&self.input, &self.infer, &self.output].map(|ns| duration(count, ns))
    }
}

fn add(ns: &AtomicU64, time: Duration) {
    ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
}

fn duration(count: u64, ns: &AtomicU64) -> Option<StatisticDuration> {
    Some(StatisticDuration { count, ns: ns.load(Relaxed) })
}

#[cfg(test)]
mod tests;
