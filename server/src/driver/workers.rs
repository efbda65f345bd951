//! What workers do, and what becomes of that: they come, report, and go.

use std::collections::BTreeSet;
use std::time::Duration;

use opentelemetry::trace::TraceId;
use shoal_scheduler::{
    Attempt, BatchFailure, BatchId, DownCause, Epoch, GroupId, Input, ItemOutcome, ModelId, Slot, Timestamp, Turn,
    Want, WorkerId,
};
use tokio::time::Instant;
use tracing::{info, warn};

use super::Driver;
use super::event::{FromWorker, ItemResult, ToWorker, Wanted, WorkerUp};
use super::fleet::{Departed, Worker};
use super::flights::{Flight, Over, holder};
use super::models::ModelReport;
use super::waits::Sent;
use crate::oip::BatchTimes;
use crate::traces::Ran;

impl Driver {
    pub(super) fn worker_up(&mut self, now: Instant, up: WorkerUp) {
        let epoch = up.epoch;
        info!(worker = %up.name, epoch = epoch.0, device = %up.device, "worker connected");
        // A local worker reads whatever it is told to; another one only what it has sources for.
        let models: Vec<ModelId> = match up.local {
            true => self.models.iter().map(|(id, _)| id).collect(),
            // One that is not configured yet may be, later.
            false => up.offers.iter().map(|name| self.models.id_for_worker(name)).collect(),
        };
        let name = up.name.clone();
        let held = up.held.clone();
        let Some((worker, device, departed)) = self.fleet.join(up) else { return };
        self.depart(now, departed);
        self.around.metrics.worker_up(&name, true);
        self.feed(now, Input::WorkerUp { worker, epoch, device, models }, None);
        // What it holds from before and nobody wants now; of the rest it says itself that it is there.
        let wanted =
            |name: &str| self.models.id(name).and_then(|id| self.models.get(id)).is_some_and(|model| model.wanted);
        for model in held.into_iter().filter(|name| !wanted(name)) {
            if let Some(worker) = self.fleet.by_epoch(epoch) {
                worker.send(ToWorker::Unload { model });
            }
        }
    }

    pub(super) fn worker_said(&mut self, now: Instant, epoch: Epoch, said: FromWorker) {
        if let FromWorker::Gone { left, reason } = said {
            if let Some(worker) = self.fleet.by_epoch(epoch) {
                info!(worker = %worker.name, epoch = epoch.0, %reason, "worker disconnected");
            }
            let departed = self.fleet.disconnect(epoch, left, now);
            return self.depart(now, departed);
        }
        let Some(worker) = self.fleet.by_epoch(epoch).map(|worker| worker.id) else {
            return; // A life that is over.
        };
        match said {
            FromWorker::Credit { slot, budget } => {
                let granted = self.stamp(now);
                if let Some(worker) = self.fleet.by_epoch_mut(epoch) {
                    worker.grant(slot, budget, granted);
                }
                self.feed(now, Input::WorkerCredit { worker, epoch, slot, budget }, None);
            }
            FromWorker::Turn { slot, model, budget, kind, own, others } => match self.models.id(&model) {
                Some(model) => {
                    let turn = Turn { worker, epoch, slot, model, budget, kind, own, others };
                    self.feed(now, Input::WorkerTurn(turn), None);
                }
                // It was taken out of the configuration a moment ago. The worker waits for an answer all the same.
                None => self.pass(epoch, slot),
            },
            FromWorker::Begun { batch, attempt, others, waited } => {
                if others.rows > 0 && self.is_flight(epoch, batch, attempt) {
                    self.count_joined(batch);
                }
                self.feed(now, Input::BatchBegun { worker, epoch, batch, attempt, others, waited }, None);
            }
            FromWorker::Model { model, state } => self.model_report(now, worker, epoch, &model, state),
            FromWorker::Items { batch, attempt, items } => {
                for item in items {
                    self.item(now, worker, epoch, batch, attempt, item);
                }
            }
            FromWorker::PagedIn { batch, attempt, taken } => {
                if self.is_flight(epoch, batch, attempt) {
                    self.count_page_in(batch, taken);
                    if let Some(flight) = self.batches.get_mut(&batch) {
                        flight.page_in = taken;
                    }
                }
                self.feed(now, Input::PagedIn { worker, epoch, batch, attempt, taken }, None);
            }
            FromWorker::Weights { absent } => {
                let absent = absent.iter().filter_map(|name| self.models.id(name)).collect();
                self.feed(now, Input::Weights { worker, epoch, absent }, None);
            }
            FromWorker::BatchEnd { batch, attempt, waited, compute } => {
                let known = self.is_flight(epoch, batch, attempt);
                self.feed(now, Input::BatchEnd { worker, epoch, batch, attempt, compute }, None);
                if known {
                    self.count_busy(self.stamp(now), worker, compute);
                    let page_in = self.batches.get(&batch).map_or(Duration::ZERO, |flight| flight.page_in);
                    self.end_batch(self.stamp(now), batch, Over::Ran(Ran { waited, compute, page_in }));
                }
                self.keep_costs_at_times(now);
            }
            FromWorker::BatchFailed { batch, attempt, reason, detail } => {
                warn!(worker = worker.0, batch = batch.0, ?reason, %detail, "batch failed");
                let known = self.is_flight(epoch, batch, attempt);
                self.feed(now, Input::BatchFailed { worker, epoch, batch, attempt, reason }, None);
                if known {
                    self.end_batch(self.stamp(now), batch, Over::Failed(failure_name(reason)));
                }
            }
            FromWorker::Artifact { sha256, result } => self.artifact(epoch, sha256, result),
            FromWorker::Gpu(health) => {
                if let Some(worker) = self.fleet.by_epoch(epoch) {
                    self.around.metrics.gpu(&worker.name, health);
                }
            }
            FromWorker::Gone { .. } => {}
        }
    }

    /// Tells a worker that serves other servers as well what waits for it.
    pub(super) fn bid(&self, epoch: Epoch, model: ModelId, want: Option<Want>) {
        let (Some(worker), Some(model)) = (self.fleet.by_epoch(epoch), self.models.get(model)) else { return };
        let want = want.map(|want| Wanted { want, start: self.instant(want.start) });
        worker.send(ToWorker::Bid { model: model.settings.name.clone(), want });
    }

    /// Answers a worker's turn with nothing.
    pub(super) fn pass(&self, epoch: Epoch, slot: Slot) {
        if let Some(worker) = self.fleet.by_epoch(epoch) {
            worker.send(ToWorker::Pass { slot });
        }
    }

    fn count_joined(&self, batch: BatchId) {
        let model = self.batches.get(&batch).map(|flight| flight.dispatch.model);
        if let Some(metrics) = model.and_then(|model| self.model_metrics.get(&model)) {
            metrics.joined_batches.inc();
        }
    }

    pub(super) fn depart(&mut self, now: Instant, departed: Option<Departed>) {
        let Some(Departed { worker, cause }) = departed else { return };
        if cause == DownCause::Left {
            info!(worker = %worker.name, "worker left");
        } else {
            warn!(worker = %worker.name, ?cause, "worker is gone");
        }
        self.feed(now, Input::WorkerDown { worker: worker.id, epoch: worker.epoch, cause }, None);
        self.forget(self.stamp(now), &worker, cause == DownCause::Left);
    }

    /// Ends all that hung on a worker the core no longer counts on.
    pub(super) fn forget(&mut self, now: Timestamp, worker: &Worker, has_left: bool) {
        match worker.local {
            true => self.around.metrics.worker_up(&worker.name, false),
            // Names of workers elsewhere come and go; their labels must not pile up.
            false => self.around.metrics.forget_worker(&worker.name),
        }
        self.around.metrics.gpu(&worker.name, None);
        let lost = |(_, flight): &(&BatchId, &Flight)| flight.dispatch.epoch == worker.epoch;
        let batches: Vec<BatchId> = self.batches.iter().filter(lost).map(|(id, _)| *id).collect();
        for batch in batches {
            self.end_batch(now, batch, Over::Failed("worker_lost"));
        }
        for model in self.models.iter_mut() {
            let report = model.workers.remove(&worker.id);
            if matches!(report, Some(ModelReport::Loading)) && !has_left {
                model.died_while_loading(now);
            }
            if report.is_some() {
                model.publish(&self.around.registry);
            }
        }
        // Not of itself: it may be back already, with nothing loaded yet.
        self.fetch_elsewhere(worker.epoch);
        self.count_model_workers();
        if self.models.iter().any(|(id, model)| model.is_given_up() && self.core.queue(id).is_some()) {
            self.follow_ups.push_back(Input::ConfigChanged(self.models.core_configs()));
        }
    }

    pub(super) fn item(
        &mut self,
        now: Instant,
        worker: WorkerId,
        epoch: Epoch,
        batch: BatchId,
        attempt: Attempt,
        item: ItemResult,
    ) {
        if !self.is_flight(epoch, batch, attempt) {
            return; // Of a batch that is over, or another worker's.
        }
        let requests = self.batches.get(&batch).map(|flight| &flight.dispatch.requests);
        let Some(&request) = requests.and_then(|requests| requests.get(item.index as usize)) else {
            return; // It made that item up.
        };
        let (outcome, tensors) = match item.result {
            Ok(tensors) => (ItemOutcome::Ok, Some(tensors)),
            Err(error) => {
                if let Some((_, row, pending)) = self.calls.of(request) {
                    pending.item_errors.insert(row, error);
                }
                (ItemOutcome::Failed, None)
            }
        };
        let input = Input::ItemDone { worker, epoch, batch, attempt, request, outcome };
        self.feed(now, input, tensors);
    }

    /// Whether that is a batch that worker has, as it has it.
    fn is_flight(&self, epoch: Epoch, batch: BatchId, attempt: Attempt) -> bool {
        let flight = self.batches.get(&batch).map(|flight| &flight.dispatch);
        flight.is_some_and(|flight| flight.epoch == epoch && flight.attempt == attempt)
    }

    fn count_page_in(&self, batch: BatchId, taken: Duration) {
        let model = self.batches.get(&batch).map(|flight| flight.dispatch.model);
        if let Some(metrics) = model.and_then(|model| self.model_metrics.get(&model)) {
            metrics.page_ins.inc();
            metrics.page_in_seconds.inc_by(taken.as_secs_f64());
        }
    }

    /// A batch is over: calls that waited only for its compute time can be answered.
    pub(super) fn end_batch(&mut self, now: Timestamp, batch: BatchId, how: Over) {
        let Some(mut ending) = self.batches.remove(&batch) else { return };
        let Flight { dispatch: flight, sent, .. } = &ending;
        let (model, sent) = (flight.model, *sent);
        let compute = if let Over::Ran(ran) = how { Some(ran.compute) } else { None };
        if let Some(compute) = compute {
            if let Some(metrics) = self.model_metrics.get(&model) {
                let shown = ending.shown.as_ref().and_then(|shown| shown.calls.first());
                metrics.compute_duration.observe(compute, shown.map(|call| TraceId::from_bytes(call.trace)));
            }
            if let Some(model) = self.models.get(model) {
                let times = BatchTimes { compute_infer: compute, ..BatchTimes::default() };
                model.statistics.record_batch(flight.requests.len() as u32, &times);
            }
        }
        let over = Sent { at: now, shown: self.core.waits(model, now).unwrap_or_default() };
        // Each call once, wherever its rows stand in the batch.
        let mut calls = BTreeSet::<GroupId>::new();
        for request in &flight.requests {
            let Some((group, row, pending)) = self.calls.of(*request) else { continue };
            calls.insert(group);
            if pending.is_open(row) {
                match holder(&self.batches, pending, *request) {
                    Some((other, other_sent)) => pending.waits.stay(row, batch, sent, other, other_sent),
                    None => pending.waits.come_back(row, batch, sent, over),
                }
            }
        }
        for group in calls {
            if let Some(pending) = self.calls.group(group) {
                pending.end_batch(batch, now, compute.unwrap_or_default());
            }
            self.finish_if_done(now, group, Some((batch, &mut ending)));
        }
        self.show_batch(now, &mut ending, how);
    }
}

/// As spans say it.
fn failure_name(reason: BatchFailure) -> &'static str {
    match reason {
        BatchFailure::Item => "item",
        BatchFailure::OutOfMemory => "out_of_memory",
        BatchFailure::Device => "device",
        BatchFailure::Timeout => "timeout",
    }
}
