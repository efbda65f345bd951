//! What is shown of calls and batches: those that were drawn on arrival, and those whose end is worth it.

use std::sync::Arc;

use shoal_scheduler::{BatchId, Dispatch, GroupId, Timestamp};

use super::Driver;
use super::calls::Pending;
use super::fleet::Worker;
use super::flights::{Flight, Over, Shown};
use super::models::Model;
use crate::call::{BatchUse, Call, CallError};
use crate::traces::{BatchRecord, CallRecord, Kept, Link, Note, RunRecord, SpanIds};

/// How a call ended, as far as that decides whether it is shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct End {
    pub(super) is_fault: bool,
    pub(super) is_late: bool,
}

impl End {
    pub(super) fn of(error: &CallError) -> Self {
        Self { is_fault: error.is_fault(), is_late: false }
    }

    fn worth(self) -> Option<Kept> {
        match self {
            Self { is_fault: true, .. } => Some(Kept::Error),
            Self { is_late: true, .. } => Some(Kept::Late),
            _ => None,
        }
    }
}

impl Shown {
    /// Of a batch that is sent, or that runs still, to this worker.
    pub(super) fn new(
        ids: Link,
        dispatch: &Dispatch,
        entry: BatchUse,
        model: &Model,
        name: Option<Arc<str>>,
        worker: Option<&Worker>,
    ) -> Box<Self> {
        let budget = worker.and_then(|worker| worker.budget(dispatch.slot));
        let settings = &model.settings;
        let (rows_max, tokens_max) = (settings.batch_rows_max.get(), settings.batch_tokens_max.get());
        Box::new(Self {
            ids,
            calls: Vec::new(),
            entry,
            rows_max: budget.map_or(rows_max, |budget| budget.rows.min(rows_max)),
            tokens_max: budget.map_or(tokens_max, |budget| budget.tokens.min(tokens_max)),
            model: settings.name.clone(),
            worker: name,
            device: worker.map(|worker| worker.device.as_str().into()),
        })
    }

    /// A call in it that is shown. Its rows come one after the other.
    pub(super) fn link(&mut self, call: SpanIds) {
        let link = Link::from(call);
        if self.calls.last() != Some(&link) {
            self.calls.push(link);
        }
    }
}

impl Driver {
    /// A call ended, and is off the books. Hands over what is to be shown of it, if anything is, and says whether it was.
    /// `ending` is the batch that ends with it.
    pub(super) fn show(
        &mut self,
        now: Timestamp,
        group: GroupId,
        pending: &mut Pending,
        end: End,
        ending: Option<(BatchId, &mut Flight)>,
    ) -> Option<SpanIds> {
        let span = pending.call.caller.trace.span?;
        let note = self.noted(now, span, group.0, &pending.call, end)?;
        self.around.tracer.note(span.span, note);
        if !span.sampled {
            self.link_kept(pending, span, ending);
        }
        self.record(now, span, pending);
        Some(span)
    }

    /// As [`Self::show`], of a call that the driver turns away.
    pub(super) fn show_refusal(&self, now: Timestamp, first: u64, call: &Call, error: &CallError) -> Option<SpanIds> {
        let span = call.caller.trace.span?;
        let note = self.noted(now, span, first, call, End::of(error))?;
        self.around.tracer.note(span.span, note);
        Some(span)
    }

    /// As [`Self::show`], of a call whose client is gone, and its span with it.
    pub(super) fn show_cancelled(&self, now: Timestamp, pending: &mut Pending) {
        if let Some(span) = pending.call.caller.trace.span.filter(|span| span.sampled) {
            self.record(now, span, pending);
        }
    }

    /// Takes back what was left for the span of a call whose client is gone.
    pub(super) fn unshow(&self, shown: Option<SpanIds>) {
        if let Some(span) = shown {
            self.around.tracer.take_note(span.span);
        }
    }

    /// What its span is to say, if it is to be shown.
    fn noted(&self, now: Timestamp, span: SpanIds, request: u64, call: &Call, end: End) -> Option<Note> {
        let kept = match span.sampled {
            true => None,
            false => Some(end.worth().filter(|why| self.around.tracer.keep(self.instant(now), *why))?),
        };
        Some(Note {
            model: call.model.clone(),
            class: call.caller.class,
            rows: u32::try_from(call.rows.len()).unwrap_or(u32::MAX),
            tokens: call.rows.iter().map(|row| u64::from(row.tokens)).sum(),
            request,
            is_late: end.is_late,
            kept,
            state: kept.map(|_| call.caller.trace.state.clone()).unwrap_or_default(),
        })
    }

    /// A call turned out to be worth showing: the batches that have not ended are shown with it.
    fn link_kept(&mut self, pending: &mut Pending, span: SpanIds, ending: Option<(BatchId, &mut Flight)>) {
        if let Some((batch, flight)) = ending {
            self.link_late(pending, span, batch, flight);
        }
        let flying: Vec<BatchId> = pending.batch_ids().filter(|id| self.batches.contains_key(id)).collect();
        for batch in flying {
            if let Some(mut flight) = self.batches.remove(&batch) {
                self.link_late(pending, span, batch, &mut flight);
                self.batches.insert(batch, flight);
            }
        }
    }

    fn link_late(&self, pending: &mut Pending, span: SpanIds, batch: BatchId, flight: &mut Flight) {
        let Some(stay) = pending.batches.iter_mut().find(|stay| stay.batch == batch) else { return };
        let Some(model) = self.models.get(flight.dispatch.model) else { return };
        let shown = flight.shown.get_or_insert_with(|| {
            let worker = self.fleet.by_epoch(flight.dispatch.epoch);
            let ids = self.around.tracer.batch_ids();
            Shown::new(ids, &flight.dispatch, stay.entry, model, stay.worker.clone(), worker)
        });
        shown.link(span);
        stay.span = Some(shown.ids);
    }

    fn record(&self, now: Timestamp, ids: SpanIds, pending: &mut Pending) {
        let submitted = self.instant(pending.submitted);
        let was_sent = !pending.batches.is_empty() || !pending.queue_time.is_zero();
        let left_queue = if was_sent { submitted + pending.queue_time } else { self.instant(now) };
        let shown = self.core.waits(pending.model, now).filter(|_| !was_sent);
        // All rows of a call that none was sent of have waited alike.
        let waited = shown.map_or(pending.waited, |shown| pending.waits.waited(0, shown));
        let runs = pending.batches.iter().map(|stay| RunRecord {
            worker: stay.worker.clone(),
            sent: self.instant(stay.sent),
            ended: self.instant(stay.ended.unwrap_or(now)),
            rows: stay.entry.rows,
            tokens: stay.entry.tokens,
            own_rows: stay.entry.own_rows,
            attempt: stay.entry.attempt,
            close: stay.entry.close,
            compute: stay.entry.compute_time,
            link: stay.span,
        });
        self.around.tracer.call(CallRecord {
            ids,
            submitted,
            left_queue,
            waits: waited.waits,
            failed: waited.failed,
            runs: runs.collect(),
            state: pending.call.caller.trace.state.clone(),
        });
    }

    /// A batch is over: shows it, if a call in it is shown.
    pub(super) fn show_batch(&self, now: Timestamp, flight: &mut Flight, over: Over) {
        let Some(shown) = flight.shown.take() else { return };
        let Shown { ids, calls, entry, rows_max, tokens_max, model, worker, device } = *shown;
        let (ran, failed) = match over {
            Over::Ran(ran) => (Some(ran), None),
            Over::Failed(why) => (None, Some(why)),
        };
        self.around.tracer.batch(BatchRecord {
            ids,
            links: calls,
            model,
            worker,
            device,
            rows: entry.rows,
            tokens: entry.tokens,
            rows_max,
            tokens_max,
            attempt: entry.attempt,
            close: entry.close,
            sent: self.instant(flight.sent.at),
            ended: self.instant(now),
            ran,
            failed,
        });
    }
}
