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
    /// What others have in the batch it runs as a part of.
    pub(crate) others: Size,
    /// Whether it may be running, for all that is known. Of several schedulers each is told.
    pub(crate) begun: bool,
    /// When it was sent.
    pub(crate) sent: Timestamp,
    /// How long it was thought to take.
    pub(crate) expected: Duration,
    /// When the worker came to it.
    pub(crate) started: Option<Timestamp>,
    /// How much later it began because of its model's weights, as far as that was told.
    pub(crate) page_in: Duration,
    /// It is a part of a batch that failed.
    pub(crate) isolated: bool,
    /// It runs requests of a batch that was slow for a second time.
    pub(crate) is_hedge: bool,
    /// The other one of a batch and its hedge, for as long as both run. A request of both is in the first of them.
    pub(crate) twin: Option<BatchId>,
    /// Requests whose result the twin had first.
    pub(crate) spared: u32,
    /// When it is slow, counted from when the worker comes to it; `None` where nobody minds.
    pub(crate) patience: Option<Duration>,
    /// When it will be slow.
    pub(crate) slow_at: Option<Timestamp>,
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
    /// By when they will be slow.
    slow: BTreeSet<(Timestamp, BatchId)>,
    /// The last id given.
    last: u64,
}

impl Batch {
    /// What its time depends on.
    pub(crate) fn size(&self) -> Size {
        let mut size = Size { rows: self.rows.into(), tokens: self.tokens.into(), squares: self.squares };
        size.add(self.others);
        size
    }

    /// How long the worker has had it, but for the time that its model's weights took to come.
    pub(crate) fn computed(&self, now: Timestamp) -> Option<Duration> {
        Some(now.since(self.started?).saturating_sub(self.page_in))
    }

    /// Whether others have something in the batch as well: any of theirs may be what breaks it.
    pub(crate) fn has_company(&self) -> bool {
        self.others.rows > 0
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
        if let Some(patience) = batch.patience.take() {
            batch.slow_at = Some(now + patience);
            self.slow.insert((now + patience, id));
        }
    }

    /// A batch began so much later because of its model's weights: no later than it has been with its worker. Says whose,
    /// and how much that is.
    pub(crate) fn note_page_in(&mut self, id: BatchId, taken: Duration, now: Timestamp) -> Option<(ModelId, Duration)> {
        let batch = self.batches.get_mut(&id)?;
        batch.page_in = taken.min(now.since(batch.started.unwrap_or(batch.sent)));
        Some((batch.model, batch.page_in))
    }

    /// A batch that has just become slow. Each is given once.
    pub(crate) fn take_slow(&mut self, now: Timestamp) -> Option<BatchId> {
        let (at, id) = self.slow.first().copied().filter(|(at, _)| *at <= now)?;
        self.slow.remove(&(at, id));
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.slow_at = None;
        }
        Some(id)
    }

    /// One batch runs requests of the other for a second time.
    pub(crate) fn pair(&mut self, one: BatchId, other: BatchId) {
        for (of, twin) in [(one, other), (other, one)] {
            if let Some(batch) = self.batches.get_mut(&of) {
                batch.twin = Some(twin);
            }
        }
    }

    /// The twin of a batch is over.
    pub(crate) fn unpair(&mut self, id: BatchId) {
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.twin = None;
        }
    }

    /// The other batch that runs this request as well.
    pub(crate) fn twin_with(&self, id: BatchId, request: RequestId) -> Option<BatchId> {
        let batch = self.batches.get(&id)?;
        let twin = batch.twin?;
        let is_in_both = batch.requests.contains(&request) && self.batches.get(&twin)?.requests.contains(&request);
        is_in_both.then_some(twin)
    }

    /// The twin had the result of a request first.
    pub(crate) fn spare(&mut self, id: BatchId) {
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.spared += 1;
        }
    }

    /// The worker runs it, after it lay there for so long, as one with so much of others.
    pub(crate) fn begin(&mut self, id: BatchId, others: Size, waited: Duration) {
        if let Some(batch) = self.batches.get_mut(&id) {
            // Its way there and its answer's way back are of its time: who waits for it waits for them.
            (batch.begun, batch.started, batch.others) = (true, Some(batch.sent + waited), others);
        }
    }

    pub(crate) fn remove(&mut self, id: BatchId) -> Option<Batch> {
        let batch = self.batches.remove(&id)?;
        if let Some(at) = batch.overdue {
            self.overdue.remove(&(at, id));
        }
        if let Some(at) = batch.slow_at {
            self.slow.remove(&(at, id));
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

    /// When the next batch becomes slow, and which.
    pub(crate) fn first_slow(&self) -> Option<(Timestamp, BatchId)> {
        self.slow.first().copied()
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
        let slow: BTreeSet<_> = self.iter().filter_map(|(id, batch)| Some((batch.slow_at?, id))).collect();
        assert_eq!(slow, self.slow, "the index of batches that become slow");
        for (id, batch) in self.iter() {
            let Some(twin) = batch.twin.map(|twin| self.get(twin).expect("a twin is in flight")) else { continue };
            assert_eq!(twin.twin, Some(id), "batch {id} and its twin know each other");
            assert!(twin.is_hedge != batch.is_hedge && twin.worker != batch.worker, "batch {id} is hedged elsewhere");
            let (hedge, first) = if batch.is_hedge { (batch, twin) } else { (twin, batch) };
            assert!(hedge.requests.iter().all(|id| first.requests.contains(id)), "batch {id} is hedged with its own");
        }
        assert!(self.batches.keys().all(|id| id.0 <= self.last), "batch ids are given in order");
    }
}
