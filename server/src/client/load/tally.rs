//! What came of the calls, added up while they run.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tonic::{Code, Status};

use super::clock::Admission;
use super::target::Answer;

/// Longest time told apart; anything longer counts as this.
const MICROS_MAX: u64 = 24 * 3600 * 1_000_000;
/// Digits kept of each time.
const DIGITS: u8 = 3;

/// A call that is over.
#[derive(Debug)]
pub(super) struct Finished {
    pub intended: Duration,
    pub sent: Duration,
    pub done: Duration,
    /// Whether it was done within the measured time.
    pub in_window: bool,
    pub admission: Admission,
    pub result: Result<Answer, Status>,
}

/// Sums over a run. Latencies and outcomes are of measured calls; throughput is of all calls that were done in the
/// measured time, whenever they began.
#[derive(Debug)]
pub(super) struct Tally {
    pub latency: Histogram<u64>,
    /// How late calls were sent: the load generator's own fault.
    pub lag: Histogram<u64>,
    pub queue: Histogram<u64>,
    pub compute: Histogram<u64>,
    pub outcomes: BTreeMap<&'static str, Outcome>,
    pub sent: u64,
    pub overflow: u64,
    /// Tokens of each answered call that tells.
    pub tokens: Histogram<u64>,
    objective: Option<Duration>,
    /// Calls answered within the objective.
    pub on_time: u64,
    pub throughput: Throughput,
    pub batches: Batches,
    /// When the last measured call was done.
    pub last_done: Duration,
}

/// Calls that ended in one way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub calls: u64,
    pub first_message: String,
}

/// What succeeded in the measured time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Throughput {
    pub calls: u64,
    pub rows: u64,
    pub tokens: u64,
}

/// How many batches the rows of these calls were, where rows of others may be in the same batches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Batches {
    rows: u64,
    batches: f64,
}

impl Batches {
    /// Rows in the mean batch. Counted by batch: a batch of ten is one batch, though ten rows tell of it.
    pub(super) fn rows_mean(&self) -> Option<f64> {
        (self.batches > 0.0).then(|| self.rows as f64 / self.batches)
    }

    fn add(&mut self, answer: &Answer) {
        for batch in answer.batches.iter().filter(|batch| batch.rows > 0) {
            self.rows += u64::from(batch.own_rows);
            self.batches += f64::from(batch.own_rows) / f64::from(batch.rows);
        }
    }
}

impl Tally {
    pub(super) fn new(objective: Option<Duration>) -> Self {
        Self {
            latency: histogram(),
            lag: histogram(),
            queue: histogram(),
            compute: histogram(),
            outcomes: BTreeMap::new(),
            sent: 0,
            overflow: 0,
            tokens: histogram(),
            objective,
            on_time: 0,
            throughput: Throughput::default(),
            batches: Batches::default(),
            last_done: Duration::ZERO,
        }
    }

    /// Counts a call.
    pub(super) fn record(&mut self, call: Finished) {
        if let (Ok(answer), true) = (&call.result, call.in_window) {
            self.throughput.calls += 1;
            self.throughput.rows += u64::from(answer.rows);
            self.throughput.tokens += answer.tokens;
        }
        if call.admission != Admission::Measured {
            return;
        }
        self.sent += 1;
        self.last_done = self.last_done.max(call.done);
        self.lag.saturating_record(micros(call.sent.saturating_sub(call.intended)));
        let (name, message) = match &call.result {
            Ok(answer) => {
                let latency = call.done.saturating_sub(call.intended);
                self.latency.saturating_record(micros(latency));
                self.on_time += u64::from(self.objective.is_some_and(|objective| latency <= objective));
                if answer.tokens > 0 {
                    self.tokens.saturating_record(answer.tokens);
                }
                self.batches.add(answer);
                let told = [(&mut self.queue, answer.queue_us), (&mut self.compute, answer.compute_us)];
                for (histogram, micros) in told {
                    micros.into_iter().for_each(|micros| histogram.saturating_record(micros));
                }
                ("OK", "")
            }
            Err(status) => (code_name(status.code()), status.message()),
        };
        let outcome =
            self.outcomes.entry(name).or_insert_with(|| Outcome { calls: 0, first_message: message.to_owned() });
        outcome.calls += 1;
    }

    /// Counts a call that could not be sent, since too many were on their way.
    pub(super) fn overflow(&mut self, admission: Admission) {
        if admission == Admission::Measured {
            self.overflow += 1;
        }
    }

    /// Measured calls that were answered.
    pub(super) fn ok(&self) -> u64 {
        self.outcomes.get("OK").map_or(0, |outcome| outcome.calls)
    }

    /// Measured calls that the server refused for load.
    pub(super) fn refused(&self) -> u64 {
        self.outcomes.get(code_name(Code::ResourceExhausted)).map_or(0, |outcome| outcome.calls)
    }

    /// How it goes, for a progress bar.
    pub(super) fn line(&self) -> String {
        let failed = self.sent - self.ok();
        let p99 = self.latency.value_at_quantile(0.99) as f64 / 1e3;
        format!("{} answered, {failed} failed, {} not sent, p99 {p99:.1} ms", self.ok(), self.overflow)
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn histogram() -> Histogram<u64> {
    // Fails only for bounds that do not fit each other; these are constants, and every test makes one.
    match Histogram::new_with_bounds(1, MICROS_MAX, DIGITS) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("{error}"),
    }
}

/// As gRPC writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Status;

    use super::{Finished, Tally};
    use crate::client::load::clock::Admission;
    use crate::client::load::target::{Answer, BatchShare};

    fn finished(intended_ms: u64, done_ms: u64, result: Result<Answer, Status>) -> Finished {
        Finished {
            intended: Duration::from_millis(intended_ms),
            sent: Duration::from_millis(intended_ms + 2),
            done: Duration::from_millis(done_ms),
            in_window: true,
            admission: Admission::Measured,
            result,
        }
    }

    fn answer(shares: &[(u32, u32)]) -> Answer {
        let batches = shares.iter().map(|&(rows, own_rows)| BatchShare { rows, own_rows }).collect();
        Answer { rows: 1, tokens: 5, queue_us: Some(7), compute_us: Some(9), batches }
    }

    #[test]
    fn latency_counts_from_the_intended_moment_and_lag_apart() {
        let mut tally = Tally::new(None);
        tally.record(finished(100, 150, Ok(answer(&[]))));
        assert_eq!(tally.latency.max() / 100, 500, "50 ms with three digits");
        assert_eq!(tally.lag.max() / 10, 200);
        assert_eq!((tally.queue.max(), tally.compute.max()), (7, 9));
    }

    #[test]
    fn the_mean_batch_is_counted_by_batch_and_not_by_row() {
        let mut tally = Tally::new(None);
        // One batch of nine rows, seen by each of its nine calls, and one batch of a single row.
        for _ in 0..9 {
            tally.record(finished(0, 1, Ok(answer(&[(9, 1)]))));
        }
        tally.record(finished(0, 1, Ok(answer(&[(1, 1)]))));
        let mean = tally.batches.rows_mean().unwrap();
        assert!((mean - 5.0).abs() < 1e-9, "{mean}");
        assert_eq!(Tally::new(None).batches.rows_mean(), None);
    }

    #[test]
    fn outcomes_are_counted_by_status_with_the_first_message() {
        let mut tally = Tally::new(None);
        tally.record(finished(0, 1, Ok(answer(&[]))));
        tally.record(finished(0, 1, Err(Status::resource_exhausted("first"))));
        tally.record(finished(0, 1, Err(Status::resource_exhausted("second"))));
        let full = &tally.outcomes["RESOURCE_EXHAUSTED"];
        assert_eq!((full.calls, full.first_message.as_str()), (2, "first"));
        assert_eq!((tally.ok(), tally.refused(), tally.sent, tally.latency.len()), (1, 2, 3, 1));
    }

    #[test]
    fn warmup_calls_count_only_for_what_was_done_in_the_measured_time() {
        let mut tally = Tally::new(None);
        tally.record(Finished { admission: Admission::Warmup, ..finished(0, 1, Ok(answer(&[]))) });
        tally.record(Finished { in_window: false, ..finished(0, 1, Ok(answer(&[]))) });
        tally.overflow(Admission::Warmup);
        tally.overflow(Admission::Measured);
        assert_eq!((tally.throughput.calls, tally.throughput.tokens, tally.sent, tally.overflow), (1, 5, 1, 1));
    }

    #[test]
    fn on_time_is_what_was_answered_within_the_objective() {
        let mut tally = Tally::new(Some(Duration::from_millis(50)));
        for done_ms in [149, 150, 151] {
            tally.record(finished(100, done_ms, Ok(answer(&[]))));
        }
        tally.record(finished(100, 101, Err(Status::resource_exhausted("soon, but no answer"))));
        assert_eq!((tally.on_time, tally.sent), (2, 4));
        assert_eq!((tally.tokens.len(), tally.tokens.max()), (3, 5));
    }

    #[test]
    fn a_time_beyond_the_scale_is_kept_as_its_end() {
        let mut tally = Tally::new(None);
        tally.record(finished(0, 1 << 40, Ok(answer(&[]))));
        assert!(tally.latency.max() >= super::MICROS_MAX);
    }
}
