//! Batches that workers hold: what is in them, since when, and until when they may run.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use crate::cost::Size;
use crate::{Attempt, BatchId, Epoch, ModelId, RequestId, Timestamp, WorkerId};

/// A batch that a worker holds.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) worker: WorkerId,
    pub(crate) epoch: Epoch,
    pub(crate) model: ModelId,
    /// The highest attempt of its requests, echoed by every reply.
    pub(crate) attempt: Attempt,
    /// As sent; which of them are still expected follows from where they are.
    pub(crate) requests: Vec<RequestId>,
    /// Cancelled or expired since, and not reported: any of them may still be what breaks the batch.
    pub(crate) withdrawn: Vec<RequestId>,
    pub(crate) rows: u32,
    pub(crate) tokens: u32,
    pub(crate) squares: u64,
    /// How long it was thought to take.
    pub(crate) expected: Duration,
    /// When the worker came to it.
    pub(crate) started: Option<Timestamp>,
    /// It is a part of a batch that failed.
    pub(crate) isolated: bool,
    /// Nobody asked for it; it has no requests.
    pub(crate) is_probe: bool,
    /// How long it may run once the worker has come to it.
    pub(crate) time_max: Duration,
    /// When its worker counts as hung; `None` while another batch of the worker is before it.
    pub(crate) overdue: Option<Timestamp>,
}

/// All batches that workers hold.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    batches: BTreeMap<BatchId, Batch>,
    overdue: BTreeSet<(Timestamp, BatchId)>,
    /// The last id given.
    last: u64,
}

impl Batch {
    /// What its time depends on.
    pub(crate) fn size(&self) -> Size {
        Size { rows: self.rows.into(), tokens: self.tokens.into(), squares: self.squares }
    }
}

impl InFlight {
    /// Takes a batch in and names it.
    pub(crate) fn insert(&mut self, batch: Batch) -> BatchId {
        self.last += 1;
        let id = BatchId(self.last);
        self.batches.insert(id, batch);
        id
    }

    /// The id the next batch will have.
    pub(crate) fn next_id(&self) -> BatchId {
        BatchId(self.last + 1)
    }

    /// The worker has come to this batch: from now on it must hurry.
    pub(crate) fn start_clock(&mut self, id: BatchId, now: Timestamp) {
        let Some(batch) = self.batches.get_mut(&id) else { return };
        batch.started = Some(now);
        let at = now + batch.time_max;
        if let Some(old) = batch.overdue.replace(at) {
            self.overdue.remove(&(old, id));
        }
        self.overdue.insert((at, id));
    }

    pub(crate) fn remove(&mut self, id: BatchId) -> Option<Batch> {
        let batch = self.batches.remove(&id)?;
        if let Some(at) = batch.overdue {
            self.overdue.remove(&(at, id));
        }
        Some(batch)
    }

    /// Nobody wants this request's result any more.
    pub(crate) fn withdraw(&mut self, id: BatchId, request: RequestId) {
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.withdrawn.push(request);
        }
    }

    /// A result came for a request that nobody wants: at least it did not break the batch.
    pub(crate) fn report_withdrawn(&mut self, id: BatchId, request: RequestId) {
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.withdrawn.retain(|withdrawn| *withdrawn != request);
        }
    }

    pub(crate) fn get(&self, id: BatchId) -> Option<&Batch> {
        self.batches.get(&id)
    }

    /// The batch that is or becomes overdue first.
    pub(crate) fn first_overdue(&self) -> Option<(Timestamp, BatchId)> {
        self.overdue.first().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.batches.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (BatchId, &Batch)> {
        self.batches.iter().map(|(id, batch)| (*id, batch))
    }

    /// Derives the index of overdue batches anew.
    pub(crate) fn assert_invariants(&self) {
        let overdue: BTreeSet<_> = self.iter().filter_map(|(id, batch)| Some((batch.overdue?, id))).collect();
        assert_eq!(overdue, self.overdue, "the index of overdue batches");
        assert!(self.batches.keys().all(|id| id.0 <= self.last), "batch ids are given in order");
    }
}
