//! Calls in flight: payloads, reply channels and results, by the ids the core knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_scheduler::{BatchId, CloseReason, GroupId, ModelId, RequestId, Timestamp};
use tokio::sync::oneshot;

use crate::call::{Answer, BatchUse, Call, CallError, Tensor};
use crate::explain::{Explanation, Ran, Waited};
use crate::traces::Link;

use super::event::{BatchRow, ItemError};
use super::waits::{Sent, WaitBook};

/// Every call that has no answer yet. A call's rows have consecutive ids, the first of which names the call.
#[derive(Debug, Default)]
pub(super) struct Calls {
    by_first: BTreeMap<u64, Pending>,
}

/// One call without an answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) call: Call,
    pub(super) model: ModelId,
    pub(super) submitted: Timestamp,
    pub(super) deadline: Option<Timestamp>,
    reply: oneshot::Sender<Result<Answer, CallError>>,
    results: Vec<Option<Vec<Tensor>>>,
    /// What a worker said of a row it could not compute.
    pub(super) item_errors: BTreeMap<u32, ItemError>,
    /// Rows without a result.
    pub(super) open_rows: usize,
    /// Batches holding rows of this call that have not ended.
    open_batches: usize,
    pub(super) queue_time: Duration,
    pub(super) batches: Vec<Stay>,
    pub(super) waits: WaitBook,
    /// What the row waited for that waited longest until it was sent; of calls that may be shown.
    pub(super) waited: Waited,
    /// For a caller who asked for it.
    explained: Option<Box<Explained>>,
}

/// Rows of a call in a batch.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) batch: BatchId,
    pub(super) entry: BatchUse,
    pub(super) sent: Timestamp,
    /// When the batch was over, once it is.
    pub(super) ended: Option<Timestamp>,
    /// With whom, where calls may be shown.
    pub(super) worker: Option<Arc<str>>,
    /// The batch's span, if it has one.
    pub(super) span: Option<Link>,
}

/// What is to be explained of a call.
#[derive(Debug)]
struct Explained {
    explanation: Explanation,
    /// Of its batches: which, and when it was sent.
    sent: Vec<(BatchId, Timestamp)>,
}

impl Pending {
    pub(super) fn new(
        call: Call,
        model: ModelId,
        submitted: Timestamp,
        deadline: Option<Timestamp>,
        reply: oneshot::Sender<Result<Answer, CallError>>,
        waits: WaitBook,
    ) -> Self {
        let rows = call.rows.len();
        let explained = || Box::new(Explained { explanation: Explanation::default(), sent: Vec::new() });
        Self {
            waits,
            explained: call.caller.explain.is_asked().then(explained),
            call,
            model,
            submitted,
            deadline,
            reply,
            results: (0..rows).map(|_| None).collect(),
            item_errors: BTreeMap::new(),
            open_rows: rows,
            open_batches: 0,
            queue_time: Duration::ZERO,
            batches: Vec::new(),
            waited: Waited::default(),
        }
    }

    /// The row leaves for a worker in a batch whose use is described by `entry`.
    pub(super) fn dispatch(&mut self, row: u32, sent: Sent, batch: BatchId, entry: BatchUse) -> BatchRow {
        let now = sent.at;
        if entry.close != CloseReason::Hedged && now.since(self.submitted) >= self.queue_time {
            self.queue_time = now.since(self.submitted);
            if self.call.caller.trace.span.is_some() {
                self.waited = self.waits.waited(row, sent.shown);
            }
            if let Some(explained) = &mut self.explained {
                explained.explanation.waited = self.waits.waited(row, sent.shown);
            }
        }
        match self.batches.iter_mut().rev().find(|stay| stay.batch == batch) {
            Some(stay) => stay.entry.own_rows += 1,
            None => {
                self.open_batches += 1;
                let entry = BatchUse { own_rows: 1, ..entry };
                if self.batches.is_empty() {
                    // Nearly every call is in one batch, and room for four is more than the rest of it.
                    self.batches.reserve_exact(1);
                }
                self.batches.push(Stay { batch, entry, sent: now, ended: None, worker: None, span: None });
            }
        }
        let source = &self.call.rows[row as usize];
        BatchRow {
            columns: source.columns.clone(),
            options: source.options.clone(),
            remaining: self.deadline.map(|deadline| deadline.since(now)),
            trace: self.call.caller.trace.clone(),
        }
    }

    /// Notes who has a batch of it that was just sent, and the batch's span.
    pub(super) fn stay_with(&mut self, batch: BatchId, worker: Option<&Arc<str>>, span: Option<Link>) {
        let stay = self.batches.iter_mut().rev().find(|stay| stay.batch == batch);
        if let Some(stay) = stay.filter(|stay| stay.worker.is_none()) {
            (stay.worker, stay.span) = (worker.cloned(), span);
        }
    }

    /// Says to a caller who asked which worker a batch went to that was just sent, and how long it is expected to take.
    pub(super) fn explain_batch(&mut self, batch: BatchId, now: Timestamp, ran: impl FnOnce() -> Ran) {
        let Some(explained) = &mut self.explained else { return };
        if explained.sent.last().is_none_or(|(known, _)| *known != batch) {
            explained.sent.push((batch, now));
            explained.explanation.batches.push(ran());
        }
    }

    /// What the row waited for that waited longest until it was sent, for a caller who asked.
    pub(super) fn waited_longest(&self) -> Option<Waited> {
        self.explained.as_ref().map(|explained| explained.explanation.waited)
    }

    /// One of its rows cannot be on time.
    pub(super) fn count_late(&mut self) {
        if let Some(explained) = &mut self.explained {
            explained.explanation.late_rows += 1;
        }
    }

    /// The row has its result.
    pub(super) fn complete(&mut self, row: u32, tensors: Vec<Tensor>) {
        let slot = &mut self.results[row as usize];
        if slot.replace(tensors).is_none() {
            self.open_rows -= 1;
        }
    }

    /// A row of this call in a batch that has not ended is not waited for any more.
    pub(super) fn leave_batch(&mut self, batch: BatchId) {
        let Some(at) = self.batches.iter().position(|stay| stay.batch == batch) else { return };
        let entry = &mut self.batches[at].entry;
        entry.own_rows -= 1;
        if entry.own_rows == 0 {
            self.batches.remove(at);
            self.open_batches -= 1;
            if let Some(explained) = &mut self.explained {
                explained.sent.remove(at);
                explained.explanation.batches.remove(at);
            }
        }
    }

    /// A batch with rows of this call ended after computing for so long, zero when that is not known.
    pub(super) fn end_batch(&mut self, batch: BatchId, now: Timestamp, compute: Duration) {
        let Some(at) = self.batches.iter().position(|stay| stay.batch == batch) else { return };
        self.batches[at].entry.compute_time = compute;
        self.batches[at].ended = Some(now);
        self.open_batches -= 1;
        if let Some(Explained { explanation, sent }) = self.explained.as_deref_mut() {
            explanation.batches[at].taken = now.since(sent[at].1);
        }
    }

    /// Every row has a result and every batch has ended.
    pub(super) fn is_done(&self) -> bool {
        self.open_rows == 0 && self.open_batches == 0
    }

    /// Whether the row has no result.
    pub(super) fn is_open(&self, row: u32) -> bool {
        self.results.get(row as usize).is_some_and(Option::is_none)
    }

    /// The rows without a result.
    pub(super) fn open(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.results).filter(|(_, result)| result.is_none()).map(|(row, _)| row)
    }

    /// The batches that rows of this call were sent in.
    pub(super) fn batch_ids(&self) -> impl Iterator<Item = BatchId> {
        self.batches.iter().map(|stay| stay.batch)
    }

    /// Sends the answer of a model with this objective. False if its caller is gone, who misses nothing.
    pub(super) fn answer(self, objective: Duration) -> bool {
        let batches: Vec<BatchUse> = self.batches.into_iter().map(|stay| stay.entry).collect();
        let answer = Answer {
            model: self.call.model,
            rows: self.results.into_iter().map(Option::unwrap_or_default).collect(),
            queue_time: self.queue_time,
            compute_time: batches.iter().map(|entry| entry.compute_time).max().unwrap_or_default(),
            batches,
            explanation: self.explained.map(|explained| Box::new(Explanation { objective, ..explained.explanation })),
        };
        self.reply.send(Ok(answer)).is_ok()
    }

    /// Sends an error. False if its caller is gone.
    pub(super) fn fail(self, error: CallError) -> bool {
        self.reply.send(Err(error)).is_ok()
    }

    pub(super) fn model_name(&self) -> &Arc<str> {
        &self.call.model
    }
}

impl Calls {
    pub(super) fn insert(&mut self, first: u64, pending: Pending) {
        self.by_first.insert(first, pending);
    }

    /// The call a request belongs to, and its row.
    pub(super) fn of(&mut self, request: RequestId) -> Option<(GroupId, u32, &mut Pending)> {
        let (&first, pending) = self.by_first.range_mut(..=request.0).next_back()?;
        let row = u32::try_from(request.0 - first).ok()?;
        ((row as usize) < pending.results.len()).then_some((GroupId(first), row, pending))
    }

    pub(super) fn group(&mut self, group: GroupId) -> Option<&mut Pending> {
        self.by_first.get_mut(&group.0)
    }

    pub(super) fn remove(&mut self, group: GroupId) -> Option<Pending> {
        self.by_first.remove(&group.0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (GroupId, &Pending)> {
        self.by_first.iter().map(|(&first, pending)| (GroupId(first), pending))
    }

    pub(super) fn len(&self) -> usize {
        self.by_first.len()
    }
}
