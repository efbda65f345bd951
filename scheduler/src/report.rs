//! How things stand, as data for people who ask. Nothing is decided by any of it.

use alloc::vec::Vec;
use core::time::Duration;

use crate::{Attempt, BatchId, Class, ModelId, Timestamp, WaitCause, Waiting, WorkerId};

/// A model's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueReport {
    /// Requests that can still be on time, by class in the order of [`Class::ALL`], and those apart with them.
    pub on_time: [u64; Class::ALL.len()],
    /// Requests that cannot.
    pub late: u64,
    /// Requests that wait in parts of batches that failed, to be run by themselves.
    pub apart: u64,
    /// When the oldest of all arrived.
    pub oldest: Option<Timestamp>,
    /// When the first that can be on time is due.
    pub next_due: Option<Timestamp>,
    /// What they wait for; nothing where nobody waits.
    pub because: Option<Waiting>,
}

/// A connected worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerReport {
    pub worker: WorkerId,
    /// Batches that can be sent to it at once.
    pub credits: usize,
    /// When it is thought to be through with what it has.
    pub free_at: Timestamp,
    /// When it may be tried again, if it is not trusted.
    pub suspect_until: Option<Timestamp>,
    /// Models it holds.
    pub ready: Vec<ModelId>,
    /// Models it is loading.
    pub loading: Vec<ModelId>,
    /// What it was sent and has not ended, in order: it is taken to run the first.
    pub batches: Vec<BatchReport>,
}

/// A batch with a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchReport {
    pub batch: BatchId,
    pub model: ModelId,
    pub rows: u32,
    pub tokens: u32,
    pub attempt: Attempt,
    pub sent: Timestamp,
    /// When the worker came to it.
    pub started: Option<Timestamp>,
    /// How long it was thought to take; zero where nothing is known.
    pub expected: Duration,
    /// Nobody asked for it.
    pub is_probe: bool,
    /// It runs what another worker is slow with.
    pub is_hedge: bool,
    /// It is a part of a batch that failed.
    pub is_apart: bool,
}

/// What somebody who comes now finds before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// Requests queued for the model.
    pub queued: u64,
    /// Workers that hold the model.
    pub workers: u32,
    /// Whether none of them can take a batch at once.
    pub are_busy: bool,
    /// When the first of them is thought to be free; now where nothing is known of what it runs.
    pub free_at: Option<Timestamp>,
    /// What such a request is expected to take alone; nothing where that is not known.
    pub alone: Option<Duration>,
    /// What is waited for.
    pub because: WaitCause,
}
