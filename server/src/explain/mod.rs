//! Why calls waited, ran as they did or were refused, and how queues and workers stand: as data and in words.
//!
//! The driver fills it in, for those who ask; every wire shows it in its own form. Others cost nothing by it.

mod report;
mod text;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shoal_scheduler::{Situation, Timestamp, WaitCause, Waits};

pub use report::{CallStanding, ModelStanding, Queued, RECENT, Report, Running, WorkerStanding};

/// The header, or metadata key, by which a caller asks for explanations, and by which a refusal has one.
pub const EXPLAIN_KEY: &str = "x-shoal-explain";

/// Whether a caller wants things explained; and where the driver leaves why their call was refused.
#[derive(Clone, Debug, Default)]
pub struct Asked(Option<Arc<OnceLock<Refusal>>>);

impl Asked {
    /// They do.
    pub fn yes() -> Self {
        Self(Some(Arc::default()))
    }

    /// Whether they do.
    pub fn is_asked(&self) -> bool {
        self.0.is_some()
    }

    /// The same wish, for another call of theirs.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self(self.0.as_ref().map(|_| Arc::default()))
    }

    /// Leaves why the call was refused, where that is asked for. A call is refused once.
    pub(crate) fn refuse(&self, why: impl FnOnce() -> Refusal) {
        if let Some(place) = &self.0 {
            place.get_or_init(why);
        }
    }

    /// Why the call was refused, if the driver refused it.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.0.as_ref()?.get()
    }
}

/// What a row's time in the queue went to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// By what it was waited for.
    pub waits: Waits,
    /// With workers that gave no result.
    pub failed: Duration,
}

impl Waited {
    /// From admission to being sent for the last time.
    pub fn total(&self) -> Duration {
        self.waits.total() + self.failed
    }
}

/// Why an answer took as long as it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Of the row that waited longest.
    pub waited: Waited,
    /// Rows that could not be on time any more and went behind others.
    pub late_rows: u32,
    /// The model's.
    pub objective: Duration,
    /// In the order of the answer's batches.
    pub batches: Vec<Ran>,
}

/// Where a batch ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The worker's name.
    pub worker: Arc<str>,
    /// How long it was expected to take, if anything was known.
    pub expected: Option<Duration>,
    /// From when it was sent until it ended.
    pub taken: Duration,
}

/// How things stood when a call was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub model: Arc<str>,
    /// As metrics count it.
    pub reason: &'static str,
    /// It was not let in.
    pub on_arrival: bool,
    /// If it was: what the row waited for that it ended for, or the one that waited longest.
    pub waited: Option<Waited>,
    /// How long the client was going to wait from then on, if it said so.
    pub deadline_in: Option<Duration>,
    /// What there was before it, unless the model is gone.
    pub found: Option<Found>,
}

/// What somebody finds before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Rows queued.
    pub queued: u64,
    /// Workers that hold the model.
    pub workers: u32,
    /// Whether none of them can take a batch at once.
    pub are_busy: bool,
    /// Until the first of them is thought to be free.
    pub free_in: Option<Duration>,
    /// What such a row takes alone, if that is known.
    pub alone: Option<Duration>,
    pub because: WaitCause,
}

impl Found {
    /// As the core has it, with times from `now` on.
    pub(crate) fn new(situation: Situation, now: Timestamp) -> Self {
        let Situation { queued, workers, are_busy, free_at, alone, because } = situation;
        // Where nothing is known it would be free at once, which it is not.
        let free_in = free_at.map(|at| at.since(now)).filter(|time| !are_busy || !time.is_zero());
        Self { queued, workers, are_busy, free_in, alone, because }
    }
}

impl Refusal {
    /// The numbers of [`Self::text`], for programs.
    pub fn numbers(&self) -> Vec<(&'static str, String)> {
        let micros = |time: Duration| time.as_micros().to_string();
        let mut numbers = Vec::new();
        if let Some(Found { queued, workers, free_in, alone, because, are_busy: _ }) = self.found {
            numbers.push(("queued_rows", queued.to_string()));
            numbers.push(("workers", workers.to_string()));
            numbers.push(("waits_for", wait_name(because).to_owned()));
            numbers.extend(free_in.map(|time| ("free_in_us", micros(time))));
            numbers.extend(alone.map(|time| ("alone_us", micros(time))));
        }
        numbers.extend(self.deadline_in.map(|time| ("deadline_in_us", micros(time))));
        if let Some(waited) = self.waited {
            numbers.push(("waited_us", micros(waited.total())));
            numbers.extend(
                wait_numbers(&waited).filter(|(_, time)| !time.is_zero()).map(|(key, time)| (key, micros(time))),
            );
        }
        numbers
    }
}

/// What a row waited for, under the names that numbers have on the wires.
pub fn wait_numbers(waited: &Waited) -> impl Iterator<Item = (&'static str, Duration)> {
    let key = |cause| match cause {
        WaitCause::NoWorker => "waited_no_worker_us",
        WaitCause::Loading => "waited_loading_us",
        WaitCause::WorkersBusy => "waited_workers_busy_us",
        WaitCause::SuspectWorker => "waited_suspect_worker_us",
        WaitCause::FullerBatch => "waited_fuller_batch_us",
    };
    let waits = waited.waits;
    let by_cause = WaitCause::ALL.into_iter().map(move |cause| (key(cause), waits.of(cause)));
    by_cause.chain([("waited_failed_attempts_us", waited.failed)])
}

/// What a queue waits for, as metrics and numbers say it.
pub fn wait_name(cause: WaitCause) -> &'static str {
    match cause {
        WaitCause::NoWorker => "no_worker",
        WaitCause::Loading => "loading",
        WaitCause::WorkersBusy => "workers_busy",
        WaitCause::SuspectWorker => "suspect_worker",
        WaitCause::FullerBatch => "fuller_batch",
    }
}
