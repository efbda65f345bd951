//! Carrying out what the core decides.

use std::fmt;
use std::time::Duration;

use shoal_scheduler::{
    BatchFailure, BatchId, CloseReason, Dispatch, DownCause, Epoch, Failure, GroupId, Input, ModelId, Output, Reject,
    RequestId, Timestamp, Waits,
};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::event::{Batch, ItemError, ToWorker};
use super::fleet::Departed;
use super::flights::{Flight, Shown, come_back};
use super::refusals::{Ended, quarantined};
use super::waits::Sent;
use super::{Driver, ToSupervisor};
use crate::call::{BatchUse, CallError, Row, Tensor, close_name, full_name};
use crate::explain::Ran;

/// Ids as log lines have them. A row's is that of its call, or a little more.
struct RequestIds<'a>(&'a [RequestId]);

impl fmt::Debug for RequestIds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|request| request.0)).finish()
    }
}

impl Driver {
    /// One input, then all that follows from it. `tensors` belong to the item that `input` reports.
    pub(super) fn feed(&mut self, now: Instant, input: Input, mut tensors: Option<Vec<Tensor>>) {
        let stamp = self.stamp(now);
        self.core.handle(stamp, input);
        loop {
            while let Some(output) = self.core.poll_output() {
                self.perform(stamp, output, &mut tensors);
            }
            match self.follow_ups.pop_front() {
                Some(next) => self.core.handle(stamp, next),
                None => break,
            }
        }
    }

    pub(super) fn perform(&mut self, now: Timestamp, output: Output, tensors: &mut Option<Vec<Tensor>>) {
        match output {
            Output::Dispatch(dispatch) => self.dispatch(now, dispatch),
            Output::Probe(probe) => self.probe(now, &probe),
            Output::Calibrated { model, batches, spent } => self.calibrated(model, batches, spent),
            Output::Complete { request } => {
                let Some((group, row, pending)) = self.calls.of(request) else { return };
                pending.complete(row, tensors.take().unwrap_or_default());
                self.finish_if_done(now, group, None);
            }
            Output::Fail { request, why } => self.failed(now, request, why),
            Output::Late { request } => {
                let model = self.calls.of(request).map(|(_, _, pending)| {
                    pending.count_late();
                    pending.model
                });
                if let Some(metrics) = model.and_then(|model| self.model_metrics.get(&model)) {
                    metrics.late_rows.inc();
                }
            }
            Output::Reject { group, why } => self.rejected(now, group, why),
            Output::Bid { epoch, model, want, .. } => self.bid(epoch, model, want),
            Output::Pass { epoch, slot, .. } => self.pass(epoch, slot),
            Output::CancelRunning { epoch, batch, requests, .. } => self.cancel_running(now, epoch, batch, &requests),
            Output::Load { worker, epoch, model } => {
                self.asked_to_load.insert((worker, model));
                self.load(epoch, model);
            }
            Output::Unload { epoch, model, .. } => {
                if let (Some(worker), Some(name)) = (self.fleet.by_epoch(epoch), self.models.name(model)) {
                    worker.send(ToWorker::Unload { model: name.clone() });
                }
            }
            Output::Replace { epoch, batch, .. } => self.replace(now, epoch, batch),
            Output::Drained => {
                if let Some(done) = self.drained.take() {
                    let _ = done.send(());
                }
            }
        }
    }

    pub(super) fn dispatch(&mut self, now: Timestamp, mut dispatch: Dispatch) {
        // A call that failed a moment ago takes its rows along; the core hears of it once its outputs are drained. What
        // is sent, what is kept and what is cancelled must be the same list: items are known by their place in it.
        let (mut rows, mut tokens) = (0, 0);
        dispatch.requests.retain(|request| {
            let Some((_, row, pending)) = self.calls.of(*request) else { return false };
            let cost = pending.call.rows[row as usize].cost();
            rows += cost.rows;
            tokens += cost.tokens;
            true
        });
        let known = self.models.get(dispatch.model).and_then(|model| Some((model, model.card.clone()?)));
        let Some((model, card)) = known else {
            // It was taken out of the configuration a moment ago, and its last call with it. A worker that gave a turn
            // waits for an answer all the same, and the core for the end of the batch.
            self.pass(dispatch.epoch, dispatch.slot);
            let Dispatch { worker, epoch, batch, attempt, .. } = dispatch;
            self.follow_ups.push_back(Input::BatchFailed { worker, epoch, batch, attempt, reason: BatchFailure::Item });
            return;
        };
        let entry = BatchUse {
            rows,
            tokens,
            own_rows: 0,
            close: dispatch.close,
            compute_time: Duration::ZERO,
            attempt: dispatch.attempt.0,
        };
        let metrics = self.model_metrics.get(&dispatch.model);
        let is_hedge = dispatch.close == CloseReason::Hedged;
        let sent = Sent { at: now, shown: self.core.waits(dispatch.model, now).unwrap_or_default() };
        let ran = || {
            let expected = self.core.batch_report(dispatch.batch).map(|report| report.expected);
            let worker = self.fleet.by_epoch(dispatch.epoch).map(|worker| worker.name.clone());
            Ran {
                worker: worker.unwrap_or_else(|| "".into()),
                expected: expected.filter(|time| !time.is_zero()),
                taken: Duration::ZERO,
            }
        };
        // Named only where calls may be shown.
        let worker = self.fleet.by_epoch(dispatch.epoch).filter(|_| self.around.tracer.is_on());
        let worker_name = worker.map(|worker| worker.name.clone());
        let mut shown: Option<Box<Shown>> = None;
        let mut waited = Waits::NONE;
        let mut batch_rows = Vec::with_capacity(dispatch.requests.len());
        for &request in &dispatch.requests {
            let Some((_, row, pending)) = self.calls.of(request) else { continue };
            if !is_hedge {
                if dispatch.attempt.0 > 1 {
                    // Its last batch may be about to end: the core sends its rows again before that is told here.
                    come_back(&self.batches, pending, request, row, sent);
                }
                waited += pending.waits.send(row, dispatch.batch, sent);
                if let Some(metrics) = metrics {
                    let shown = pending.call.caller.trace.span.filter(|span| span.sampled).map(|span| span.trace);
                    metrics.queue_duration.observe(now.since(pending.submitted), shown);
                }
            }
            batch_rows.push(pending.dispatch(row, sent, dispatch.batch, entry));
            pending.explain_batch(dispatch.batch, now, ran);
            if let Some(span) = pending.call.caller.trace.span {
                let ids = span.sampled.then(|| {
                    let shown = shown.get_or_insert_with(|| {
                        let ids = self.around.tracer.batch_ids();
                        Shown::new(ids, &dispatch, entry, model, worker_name.clone(), worker)
                    });
                    shown.link(span);
                    shown.ids
                });
                pending.stay_with(dispatch.batch, worker_name.as_ref(), ids);
            }
        }
        if let Some(metrics) = metrics {
            metrics.batch_rows.observe(f64::from(rows));
            metrics.batch_tokens.observe(f64::from(tokens));
            metrics.close(close_name(dispatch.close));
            metrics.hedged_batches.inc_by(u64::from(is_hedge));
            metrics.waited(waited);
        }
        let (batch, worker, close) = (dispatch.batch.0, dispatch.worker.0, close_name(dispatch.close));
        debug!(batch, worker, rows, tokens, close, requests = ?RequestIds(&dispatch.requests), "dispatch");
        if let Some(worker) = self.fleet.by_epoch_mut(dispatch.epoch) {
            let held = worker.spend(dispatch.slot, now);
            worker.send(ToWorker::Run(Batch {
                batch: dispatch.batch,
                attempt: dispatch.attempt,
                epoch: dispatch.epoch,
                slot: dispatch.slot,
                model: model.settings.name.clone(),
                card,
                held,
                rows: batch_rows,
            }));
        }
        if let Some(model) = self.models.get_mut(dispatch.model) {
            model.recent.close(now, dispatch.close, rows);
        }
        self.batches.insert(dispatch.batch, Flight { dispatch, sent, shown, page_in: Duration::ZERO });
    }

    /// One row failed, and its call with it. The core drops what is left of the call.
    pub(super) fn failed(&mut self, now: Timestamp, request: RequestId, why: Failure) {
        let Some((group, row, pending)) = self.calls.of(request) else { return };
        let field = format!("[{row}]");
        let (error, reason) = match why {
            Failure::DeadlinePassed => (CallError::DeadlinePassed, "deadline_passed"),
            Failure::QueueTimeout => {
                let model = self.models.get(pending.model);
                let waited = model.map_or(Duration::ZERO, |model| model.settings.queue_time_max);
                if model.is_some_and(|model| model.ready_workers() > 0) {
                    (CallError::QueueTimeout { waited, retry_after: Duration::from_secs(1) }, "queue_timeout")
                } else {
                    let reason = format!("no worker has held it for {}", humantime::format_duration(waited));
                    (CallError::ModelNotReady { model: pending.model_name().to_string(), reason }, "queue_timeout")
                }
            }
            Failure::Shed { retry_after } => (CallError::Late { retry_after }, "late"),
            Failure::Item => match pending.item_errors.remove(&row) {
                Some(ItemError::Deadline) => (CallError::DeadlinePassed, "deadline_passed"),
                Some(ItemError::Input(problem)) => (CallError::Item { field, problem }, "item"),
                Some(ItemError::Cancelled) | None => {
                    (CallError::Item { field, problem: "the worker gave no result".into() }, "item")
                }
            },
            Failure::Poison => {
                let (model, culprit) = (pending.model, pending.call.rows[row as usize].clone());
                self.quarantine(now, group, model, &culprit);
                (CallError::Poison { field }, "poison")
            }
            Failure::OutOfMemory => (CallError::OutOfMemory { field }, "out_of_memory"),
            Failure::WorkerLost { attempts } => (CallError::WorkerLost { attempts: attempts.0 }, "worker_lost"),
            Failure::ModelRemoved => {
                (CallError::ModelRemoved { model: pending.model_name().to_string() }, "model_removed")
            }
            Failure::Drained => (CallError::Draining, "draining"),
        };
        self.refuse(now, group, Ended::Row(row), error, reason);
    }

    /// Holds an input that was proven guilty, and ends the other calls that have it: each would cost a worker.
    fn quarantine(&mut self, now: Timestamp, found_in: GroupId, model: ModelId, culprit: &Row) {
        let Some(known) = self.models.get_mut(model) else { return };
        known.quarantine.hold(now, culprit);
        let others = self.calls.iter().filter(|(group, pending)| *group != found_in && pending.model == model);
        let held = others.filter_map(|(group, pending)| {
            let (row, since) = known.quarantine.find(now, &pending.call.rows)?;
            Some((group, row, quarantined(row, now.since(since))))
        });
        for (group, row, error) in held.collect::<Vec<_>>() {
            self.refuse(now, group, Ended::Row(row), error, "quarantined");
            self.follow_ups.push_back(Input::Cancel(group));
        }
    }

    pub(super) fn rejected(&mut self, now: Timestamp, group: GroupId, why: Reject) {
        let Some(pending) = self.calls.group(group) else { return };
        let model = pending.model_name().to_string();
        let too_large = |problem: &str| CallError::TooLarge { field: String::new(), problem: problem.to_owned() };
        let (error, reason) = match why {
            Reject::UnknownModel => (CallError::UnknownModel { model, near: None }, "unknown_model"),
            Reject::Draining => (CallError::Draining, "draining"),
            Reject::DeadlinePassed => (CallError::DeadlinePassed, "deadline_passed"),
            Reject::DeadlineTooShort { left, needed } => {
                (CallError::DeadlineTooShort { left, needed }, "deadline_too_short")
            }
            Reject::DeadlineUnmeetable { retry_after } => {
                (CallError::DeadlineUnmeetable { retry_after }, "deadline_unmeetable")
            }
            Reject::GroupTooLarge => (
                too_large("has more rows than may be queued at all, for the model, the tenant or the class"),
                "too_large",
            ),
            Reject::RequestTooLarge => (too_large("is more than a whole batch of this model may hold"), "too_large"),
            Reject::QueueFull { limit, retry_after } => (CallError::QueueFull { limit, retry_after }, full_name(limit)),
        };
        self.refuse(now, group, Ended::OnArrival, error, reason);
    }

    pub(super) fn cancel_running(&mut self, now: Timestamp, epoch: Epoch, batch: BatchId, requests: &[RequestId]) {
        // Rows whose result another batch had first: their calls wait no longer for this one.
        for request in requests {
            let Some((group, _, pending)) = self.calls.of(*request) else { continue };
            pending.leave_batch(batch);
            self.finish_if_done(now, group, None);
        }
        let Some(flight) = self.batches.get(&batch) else { return };
        let Some(worker) = self.fleet.by_epoch(epoch) else { return };
        let in_batch = flight.dispatch.requests.iter().enumerate();
        let items = in_batch.filter(|(_, id)| requests.contains(id)).map(|(index, _)| index as u32).collect();
        worker.send(ToWorker::Cancel { batch, items });
    }

    pub(super) fn load(&self, epoch: Epoch, model: ModelId) {
        let (Some(worker), Some(model)) = (self.fleet.by_epoch(epoch), self.models.get(model)) else { return };
        // A worker elsewhere has its own disk: it is told the name and reads its own source.
        let source = if worker.local { model.settings.place.clone() } else { None };
        let settings = &model.settings;
        worker.send(ToWorker::Load { model: settings.name.clone(), source, dtype: settings.dtype.clone() });
    }

    /// The core gave a worker up for hung: its process has to go.
    pub(super) fn replace(&mut self, now: Timestamp, epoch: Epoch, batch: BatchId) {
        let Some(Departed { worker, .. }) = self.fleet.remove(epoch, DownCause::Crashed) else { return };
        warn!(worker = %worker.name, batch = batch.0, device = %worker.device, "worker hangs, replacing it");
        self.forget(now, &worker, false);
        if worker.local {
            let _ = self.around.supervisor.send(ToSupervisor::Replace(worker.name));
        }
    }
}
