//! The driver: one task that owns the scheduler and everything kept by its ids.
//!
//! Every event becomes at most one input of the core, then the core's outputs are carried out until there are none.
//! Nothing here knows the wire; nothing here decides what the core decides.

mod calls;
mod event;
mod fleet;
mod models;
mod run;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use shoal_scheduler::{
    BatchId, CloseReason, Dispatch, DownCause, Epoch, Failure, Group, GroupId, Input, ItemOutcome, Limits, ModelId,
    Output, Reject, Request, RequestId, Scheduler, TenantId, Timestamp, WorkerId,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, info, warn};

pub use event::{Batch, BatchRow, Event, FromWorker, ItemError, ItemResult, ModelReport, ToWorker, WorkerUp};
pub use models::ModelSettings;
pub use run::{Handle, Inbox, drive};

use crate::call::{Answer, BatchUse, Call, CallError, Tensor};
use crate::metrics::{Metrics, ModelMetrics};
use crate::oip::BatchTimes;
use crate::registry::Registry;
use crate::tokenize::Tokenizer;

use calls::{Calls, Pending};
use fleet::{Departed, Fleet, Worker};
use models::Models;

/// Tenants counted apart; those beyond share one account. Bounds what made-up tenant names can cost.
const TENANTS_MAX: usize = 4096;

/// What the driver needs besides events.
#[derive(Debug)]
pub struct Surroundings {
    /// Where the request path reads what the driver knows of models.
    pub registry: Registry,
    /// Where things are counted.
    pub metrics: Metrics,
    /// Who ends a local worker's process that hangs.
    pub replace: mpsc::UnboundedSender<Arc<str>>,
    /// Who reads and keeps tokenizers.
    pub artifacts: mpsc::UnboundedSender<ArtifactWanted>,
}

/// An errand about a tokenizer, for whoever owns the disk; answered with [`Event::Tokenizer`].
#[derive(Debug)]
pub enum ArtifactWanted {
    /// Find it on disk.
    Read { sha256: String },
    /// Keep this one.
    Keep { sha256: String, data: bytes::Bytes },
}

/// The state machine around the core.
#[derive(Debug)]
pub struct Driver {
    core: Scheduler,
    /// The core's time zero.
    origin: Instant,
    calls: Calls,
    /// With workers.
    batches: BTreeMap<BatchId, Dispatch>,
    models: Models,
    model_metrics: BTreeMap<ModelId, ModelMetrics>,
    fleet: Fleet,
    tenants: BTreeMap<Arc<str>, TenantId>,
    drained: Option<oneshot::Sender<()>>,
    /// Inputs that outputs gave rise to, fed once the outputs are drained.
    follow_ups: VecDeque<Input>,
    around: Surroundings,
}

impl Driver {
    /// A driver whose clock starts now.
    pub fn new(limits: Limits, origin: Instant, around: Surroundings) -> Self {
        Self {
            core: Scheduler::new(limits),
            origin,
            calls: Calls::default(),
            batches: BTreeMap::new(),
            models: Models::default(),
            model_metrics: BTreeMap::new(),
            fleet: Fleet::default(),
            tenants: BTreeMap::new(),
            drained: None,
            follow_ups: VecDeque::new(),
            around,
        }
    }

    /// One thing happened.
    pub fn apply(&mut self, now: Instant, event: Event) {
        match event {
            Event::Submit { first, call, reply } => self.submit(now, first, call, reply),
            Event::WorkerUp(up) => self.worker_up(now, up),
            Event::Worker { epoch, said } => self.worker_said(now, epoch, said),
            Event::ProcessEnded { worker, cause } => {
                let departed = self.fleet.process_ended(&worker, cause);
                self.depart(now, departed);
            }
            Event::Configure(settings) => self.configure(now, settings),
            Event::Want { model, wanted } => self.want(now, &model, wanted),
            Event::Tokenizer { sha256, result } => self.tokenizer_read(&sha256, result),
            Event::Dismiss { grace } => {
                for worker in self.fleet.iter().filter(|worker| worker.local) {
                    worker.send(ToWorker::Drain { grace });
                }
            }
            Event::Measure { done } => {
                self.measure();
                let _ = done.send(());
            }
            Event::Drain { grace, done } => {
                self.drained = Some(done);
                let deadline = self.stamp(now) + grace;
                self.feed(now, Input::Drain { deadline }, None);
            }
        }
    }

    /// A call's client cancelled it or went away.
    pub fn cancel(&mut self, now: Instant, group: GroupId) {
        if let Some(pending) = self.calls.remove(group) {
            if let Some(metrics) = self.model_metrics.get(&pending.model) {
                metrics.call("CANCELLED");
            }
            self.feed(now, Input::Cancel(group), None);
        }
    }

    /// The time asked for by [`Self::next_wake`] has come.
    pub fn tick(&mut self, now: Instant) {
        while let Some(departed) = self.fleet.overdue(now) {
            // Its process is there and does not dial again: stopped, or stuck.
            let _ = self.around.replace.send(departed.worker.name.clone());
            self.depart(now, Some(departed));
        }
        self.feed(now, Input::Tick, None);
    }

    /// When to call [`Self::tick`] if nothing happens before.
    pub fn next_wake(&self) -> Option<Instant> {
        let core = self.core.poll_timeout().map(|(at, _)| self.instant(at));
        core.into_iter().chain(self.fleet.next_overdue()).min()
    }

    /// Sets the gauges that are read off the whole state.
    fn measure(&self) {
        let metrics = &self.around.metrics;
        let counts = self.core.counts();
        metrics.calls_in_flight.set(self.calls.len() as i64);
        metrics.rows_in_flight.set(counts.running as i64);
        metrics.stale_replies.set(counts.replies_dropped);
        for (id, model) in &self.model_metrics {
            let queued = self.core.queue(*id).map_or(0, |queue| queue.requests);
            model.queued_rows.set(queued as i64);
        }
    }

    // Calls.

    fn submit(&mut self, now: Instant, first: u64, call: Call, reply: oneshot::Sender<Result<Answer, CallError>>) {
        if reply.is_closed() {
            return; // Its caller went away while it was on its way here.
        }
        let Some(model) = self.models.id(&call.model) else {
            let error = CallError::UnknownModel { model: call.model.to_string(), near: None };
            let _ = reply.send(Err(error));
            return;
        };
        if let Some(unloaded) = self.models.get(model).filter(|model| !model.wanted) {
            let error = CallError::ModelNotReady {
                model: unloaded.settings.name.to_string(),
                reason: "it was unloaded".into(),
            };
            let _ = reply.send(Err(error));
            return;
        }
        let stamp = self.stamp(now);
        let deadline = call.caller.deadline.map(|deadline| self.stamp(deadline));
        let group = Group {
            id: GroupId(first),
            model,
            tenant: self.tenant(&call.caller.tenant),
            class: call.caller.class,
            deadline,
            requests: (first..)
                .zip(&call.rows)
                .map(|(id, row)| Request { id: RequestId(id), cost: row.cost() })
                .collect(),
        };
        self.calls.insert(first, Pending::new(call, model, stamp, deadline, reply));
        self.feed(now, Input::SubmitGroup(group), None);
    }

    fn tenant(&mut self, name: &Arc<str>) -> TenantId {
        if let Some(&id) = self.tenants.get(name) {
            return id;
        }
        if self.tenants.len() >= TENANTS_MAX {
            return TenantId(u32::MAX);
        }
        let id = TenantId(self.tenants.len() as u32);
        self.tenants.insert(name.clone(), id);
        id
    }

    fn refuse(&mut self, group: GroupId, error: CallError, reason: &'static str) {
        if let Some(pending) = self.calls.remove(group) {
            if let Some(metrics) = self.model_metrics.get(&pending.model) {
                metrics.reject(reason);
                metrics.call(error.code_name());
            }
            pending.fail(error);
        }
    }

    fn finish_if_done(&mut self, now: Timestamp, group: GroupId) {
        if !self.calls.group(group).is_some_and(|pending| pending.is_done()) {
            return;
        }
        if let Some(pending) = self.calls.remove(group) {
            if let Some(metrics) = self.model_metrics.get(&pending.model) {
                metrics.call("OK");
                metrics.call_duration.observe(now.since(pending.submitted).as_secs_f64());
            }
            pending.answer();
        }
    }

    // Workers.

    fn worker_up(&mut self, now: Instant, up: WorkerUp) {
        let epoch = up.epoch;
        info!(worker = %up.name, epoch = epoch.0, device = %up.device, "worker connected");
        self.around.metrics.worker_up(&up.name, true);
        // A local worker reads whatever it is told to; another one only what it has sources for.
        let models: Vec<ModelId> = match up.local {
            true => self.models.iter().map(|(id, _)| id).collect(),
            false => up.offers.iter().filter_map(|name| self.models.id(name)).collect(),
        };
        let (worker, departed) = self.fleet.join(up);
        self.depart(now, departed);
        self.feed(now, Input::WorkerUp { worker, epoch, models }, None);
    }

    fn worker_said(&mut self, now: Instant, epoch: Epoch, said: FromWorker) {
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
                self.feed(now, Input::WorkerCredit { worker, epoch, slot, budget }, None);
            }
            FromWorker::Model { model, state } => self.model_report(now, worker, epoch, &model, state),
            FromWorker::Items { batch, attempt, items } => {
                for item in items {
                    self.item(now, worker, epoch, batch, attempt, item);
                }
            }
            FromWorker::BatchEnd { batch, attempt, compute } => {
                self.feed(now, Input::BatchEnd { worker, epoch, batch, attempt, compute }, None);
                self.end_batch(self.stamp(now), batch, Some(compute));
            }
            FromWorker::BatchFailed { batch, attempt, reason, detail } => {
                warn!(worker = worker.0, batch = batch.0, ?reason, %detail, "batch failed");
                self.feed(now, Input::BatchFailed { worker, epoch, batch, attempt, reason }, None);
                self.end_batch(self.stamp(now), batch, None);
            }
            FromWorker::Artifact { sha256, result } => self.artifact(sha256, result),
            FromWorker::Gone { .. } => {}
        }
    }

    fn depart(&mut self, now: Instant, departed: Option<Departed>) {
        let Some(Departed { worker, cause }) = departed else { return };
        if cause == DownCause::Left {
            info!(worker = %worker.name, "worker left");
        } else {
            warn!(worker = %worker.name, ?cause, "worker is gone");
        }
        self.feed(now, Input::WorkerDown { worker: worker.id, epoch: worker.epoch, cause }, None);
        self.forget(self.stamp(now), &worker);
    }

    /// Ends all that hung on a worker the core no longer counts on.
    fn forget(&mut self, now: Timestamp, worker: &Worker) {
        self.around.metrics.worker_up(&worker.name, false);
        let lost = |flight: &&Dispatch| flight.epoch == worker.epoch;
        let batches: Vec<BatchId> = self.batches.values().filter(lost).map(|flight| flight.batch).collect();
        for batch in batches {
            self.end_batch(now, batch, None);
        }
        for model in self.models.iter_mut() {
            if model.workers.remove(&worker.id).is_some() {
                self.around.registry.publish(model.view());
            }
        }
        self.count_model_workers();
    }

    fn item(
        &mut self,
        now: Instant,
        worker: WorkerId,
        epoch: Epoch,
        batch: BatchId,
        attempt: shoal_scheduler::Attempt,
        item: ItemResult,
    ) {
        let requests = self.batches.get(&batch).map(|flight| &flight.requests);
        let Some(&request) = requests.and_then(|requests| requests.get(item.index as usize)) else {
            return; // Of a batch that is over.
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

    /// A batch is over: calls that waited only for its compute time can be answered.
    fn end_batch(&mut self, now: Timestamp, batch: BatchId, compute: Option<Duration>) {
        let Some(flight) = self.batches.remove(&batch) else { return };
        if let (Some(compute), Some(metrics)) = (compute, self.model_metrics.get(&flight.model)) {
            metrics.compute_duration.observe(compute.as_secs_f64());
        }
        if let (Some(compute), Some(model)) = (compute, self.models.get(flight.model)) {
            let times = BatchTimes { compute_infer: compute, ..BatchTimes::default() };
            model.statistics.record_batch(flight.requests.len() as u32, &times);
        }
        let mut last = None;
        for &request in &flight.requests {
            let Some((group, _, pending)) = self.calls.of(request) else { continue };
            if last.replace(group) == Some(group) {
                continue; // Rows of one call follow each other in a batch more often than not.
            }
            pending.end_batch(batch, compute.unwrap_or_default());
        }
        for request in flight.requests {
            if let Some((group, _, _)) = self.calls.of(request) {
                self.finish_if_done(now, group);
            }
        }
    }

    // Models.

    fn configure(&mut self, now: Instant, settings: Vec<ModelSettings>) {
        let (configs, gone) = self.models.configure(settings);
        for name in gone {
            self.around.registry.remove(&name);
        }
        self.model_metrics =
            self.models.iter().map(|(id, model)| (id, self.around.metrics.model(&model.settings.name))).collect();
        for (_, model) in self.models.iter() {
            self.around.registry.publish(model.view());
        }
        self.feed(now, Input::ConfigChanged(configs), None);
    }

    /// A client wants a model in memory, or out of it.
    fn want(&mut self, now: Instant, name: &str, wanted: bool) {
        let Some(model) = self.models.id(name).and_then(|id| self.models.get_mut(id)) else { return };
        if model.wanted != wanted {
            model.wanted = wanted;
            self.around.registry.publish(model.view());
            let configs = self.models.core_configs();
            self.feed(now, Input::ConfigChanged(configs), None);
        }
    }

    fn model_report(&mut self, now: Instant, worker: WorkerId, epoch: Epoch, name: &str, report: ModelReport) {
        use shoal_scheduler::ModelState;
        let Some(id) = self.models.id(name) else { return };
        let state = match &report {
            ModelReport::Loading => ModelState::Loading,
            ModelReport::Ready(card) => {
                info!(model = name, worker = worker.0, dtype = %card.dtype, bytes = card.bytes, "model ready");
                ModelState::Ready
            }
            ModelReport::Failed(reason) => {
                warn!(model = name, worker = worker.0, %reason, "model failed to load");
                ModelState::Failed
            }
            ModelReport::Unloaded => ModelState::Unloaded,
        };
        if let Some(model) = self.models.get_mut(id) {
            model.report(worker, report);
            if let Some(sha256) = model.tokenizer_wanted() {
                let _ = self.around.artifacts.send(ArtifactWanted::Read { sha256: sha256.to_owned() });
            }
            self.around.registry.publish(model.view());
        }
        self.count_model_workers();
        self.feed(now, Input::ModelState { worker, epoch, model: id, state }, None);
    }

    fn count_model_workers(&self) {
        for (id, model) in self.models.iter() {
            if let Some(metrics) = self.model_metrics.get(&id) {
                metrics.workers.set(i64::from(model.view().workers));
            }
        }
    }

    /// The disk has the tokenizer, or a worker has to be asked for it.
    fn tokenizer_read(&mut self, sha256: &str, result: Result<bytes::Bytes, String>) {
        let json = match result {
            Ok(json) => json,
            Err(missing) => {
                debug!(sha256, %missing, "asking a worker for the tokenizer");
                return self.fetch_tokenizer(sha256);
            }
        };
        for model in self.models.iter_mut() {
            if model.tokenizer_wanted() != Some(sha256) {
                continue;
            }
            let tokens_max = model.card.as_ref().map_or(0, |card| card.tokens_max);
            match Tokenizer::parse(&json, tokens_max) {
                Ok(tokenizer) => model.tokenizer = Some(Arc::new(tokenizer)),
                Err(problem) => model.tokenizer_error = Some(problem),
            }
            self.around.registry.publish(model.view());
        }
    }

    fn fetch_tokenizer(&self, sha256: &str) {
        use models::Model;
        let wants = |model: &&Model| model.tokenizer_wanted() == Some(sha256);
        let holders = self.models.iter().map(|(_, model)| model).filter(wants).flat_map(|model| model.workers.keys());
        for holder in holders {
            if let Some(worker) = self.fleet.iter().find(|worker| worker.id == *holder) {
                return worker.send(ToWorker::FetchArtifact { sha256: sha256.to_owned() });
            }
        }
    }

    fn artifact(&mut self, sha256: String, result: Result<bytes::Bytes, String>) {
        match result {
            Ok(data) => {
                let _ = self.around.artifacts.send(ArtifactWanted::Keep { sha256, data });
            }
            Err(problem) => {
                warn!(%sha256, %problem, "a worker could not give its tokenizer");
                for model in self.models.iter_mut().filter(|model| model.tokenizer_wanted().is_some()) {
                    model.tokenizer_error = Some(problem.clone());
                    self.around.registry.publish(model.view());
                }
            }
        }
    }

    // The core.

    /// One input, then all that follows from it. `tensors` belong to the item that `input` reports.
    fn feed(&mut self, now: Instant, input: Input, mut tensors: Option<Vec<Tensor>>) {
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

    fn perform(&mut self, now: Timestamp, output: Output, tensors: &mut Option<Vec<Tensor>>) {
        match output {
            Output::Dispatch(dispatch) => self.dispatch(now, dispatch),
            Output::Complete { request } => {
                let Some((group, row, pending)) = self.calls.of(request) else { return };
                pending.complete(row, tensors.take().unwrap_or_default());
                self.finish_if_done(now, group);
            }
            Output::Fail { request, why } => self.failed(request, why),
            Output::Reject { group, why } => self.rejected(group, why),
            Output::CancelRunning { epoch, batch, requests, .. } => self.cancel_running(epoch, batch, &requests),
            Output::Load { epoch, model, .. } => self.load(epoch, model),
            Output::Unload { epoch, model, .. } => {
                if let (Some(worker), Some(model)) = (self.fleet.by_epoch(epoch), self.models.get(model)) {
                    worker.send(ToWorker::Unload { model: model.settings.name.clone() });
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

    fn dispatch(&mut self, now: Timestamp, dispatch: Dispatch) {
        let Some(model) = self.models.get(dispatch.model) else { return };
        let Some(card) = model.card.clone() else { return };
        let (mut rows, mut tokens) = (0, 0);
        for &request in &dispatch.requests {
            if let Some((_, row, pending)) = self.calls.of(request) {
                let cost = pending.call.rows[row as usize].cost();
                rows += cost.rows;
                tokens += cost.tokens;
            }
        }
        let entry = BatchUse {
            rows,
            tokens,
            own_rows: 0,
            close: dispatch.close,
            compute_time: Duration::ZERO,
            attempt: dispatch.attempt.0,
        };
        let metrics = self.model_metrics.get(&dispatch.model);
        let mut batch_rows = Vec::with_capacity(dispatch.requests.len());
        for &request in &dispatch.requests {
            let Some((_, row, pending)) = self.calls.of(request) else { continue };
            if let Some(metrics) = metrics {
                metrics.queue_duration.observe(now.since(pending.submitted).as_secs_f64());
            }
            batch_rows.push(pending.dispatch(row, now, dispatch.batch, entry));
        }
        if let Some(metrics) = metrics {
            metrics.batch_rows.observe(f64::from(rows));
            metrics.batch_tokens.observe(f64::from(tokens));
            metrics.close(close_name(dispatch.close));
        }
        debug!(batch = dispatch.batch.0, worker = dispatch.worker.0, rows, tokens, close = ?dispatch.close, "dispatch");
        if let Some(worker) = self.fleet.by_epoch(dispatch.epoch) {
            worker.send(ToWorker::Run(Batch {
                batch: dispatch.batch,
                attempt: dispatch.attempt,
                epoch: dispatch.epoch,
                slot: dispatch.slot,
                model: model.settings.name.clone(),
                card,
                rows: batch_rows,
            }));
        }
        self.batches.insert(dispatch.batch, dispatch);
    }

    /// One row failed, so its call fails, and what is left of the call is no longer wanted.
    fn failed(&mut self, request: RequestId, why: Failure) {
        let Some((group, row, pending)) = self.calls.of(request) else { return };
        let field = format!("[{row}]");
        let (error, reason) = match why {
            Failure::DeadlinePassed => (CallError::DeadlinePassed, "deadline_passed"),
            Failure::QueueTimeout => {
                let waited =
                    self.models.get(pending.model).map_or(Duration::ZERO, |model| model.settings.queue_time_max);
                (CallError::QueueTimeout { waited, retry_after: Duration::from_secs(1) }, "queue_timeout")
            }
            Failure::Item => match pending.item_errors.remove(&row) {
                Some(ItemError::Deadline) => (CallError::DeadlinePassed, "deadline_passed"),
                Some(ItemError::Input(problem)) => (CallError::Item { field, problem }, "item"),
                Some(ItemError::Cancelled) | None => {
                    (CallError::Item { field, problem: "the worker gave no result".into() }, "item")
                }
            },
            Failure::Poison => (CallError::Poison { field }, "poison"),
            Failure::OutOfMemory => (CallError::OutOfMemory { field }, "out_of_memory"),
            Failure::WorkerLost { attempts } => (CallError::WorkerLost { attempts: attempts.0 }, "worker_lost"),
            Failure::ModelRemoved => {
                (CallError::ModelRemoved { model: pending.model_name().to_string() }, "model_removed")
            }
            Failure::Drained => (CallError::Draining, "draining"),
        };
        self.refuse(group, error, reason);
        self.follow_ups.push_back(Input::Cancel(group));
    }

    fn rejected(&mut self, group: GroupId, why: Reject) {
        let Some(pending) = self.calls.group(group) else { return };
        let model = pending.model_name().to_string();
        let too_large = |problem: &str| CallError::TooLarge { field: String::new(), problem: problem.to_owned() };
        let (error, reason) = match why {
            Reject::UnknownModel => (CallError::UnknownModel { model, near: None }, "unknown_model"),
            Reject::Draining => (CallError::Draining, "draining"),
            Reject::DeadlinePassed => (CallError::DeadlinePassed, "deadline_passed"),
            Reject::GroupTooLarge => (too_large("the call has more rows than the queue may ever hold"), "too_large"),
            Reject::RequestTooLarge => (too_large("one row is more than a whole batch may hold"), "too_large"),
            Reject::QueueFull { limit, retry_after } => {
                (CallError::QueueFull { limit, retry_after }, limit_label(limit))
            }
        };
        self.refuse(group, error, reason);
    }

    fn cancel_running(&self, epoch: Epoch, batch: BatchId, requests: &[RequestId]) {
        let Some(flight) = self.batches.get(&batch) else { return };
        let Some(worker) = self.fleet.by_epoch(epoch) else { return };
        let in_batch = flight.requests.iter().enumerate();
        let items = in_batch.filter(|(_, id)| requests.contains(id)).map(|(index, _)| index as u32).collect();
        worker.send(ToWorker::Cancel { batch, items });
    }

    fn load(&self, epoch: Epoch, model: ModelId) {
        let (Some(worker), Some(model)) = (self.fleet.by_epoch(epoch), self.models.get(model)) else { return };
        // A worker elsewhere has its own disk: it is told the name and reads its own source.
        let source = if worker.local { model.settings.place.clone() } else { None };
        let settings = &model.settings;
        worker.send(ToWorker::Load { model: settings.name.clone(), source, dtype: settings.dtype.clone() });
    }

    /// The core gave a worker up for hung: its process has to go.
    fn replace(&mut self, now: Timestamp, epoch: Epoch, batch: BatchId) {
        let Some(Departed { worker, .. }) = self.fleet.remove(epoch, DownCause::Crashed) else { return };
        warn!(worker = %worker.name, batch = batch.0, device = %worker.device, "worker hangs, replacing it");
        self.forget(now, &worker);
        if worker.local {
            let _ = self.around.replace.send(worker.name);
        }
    }

    fn stamp(&self, at: Instant) -> Timestamp {
        Timestamp::ZERO + at.saturating_duration_since(self.origin)
    }

    fn instant(&self, at: Timestamp) -> Instant {
        self.origin + at.since(Timestamp::ZERO)
    }
}

impl crate::call::Row {
    fn cost(&self) -> shoal_scheduler::Cost {
        let tokens = u64::from(self.tokens);
        shoal_scheduler::Cost {
            rows: 1,
            tokens: self.tokens,
            tokens_squared: tokens * tokens,
            bytes: self.columns.iter().map(|column| column.len() as u64).sum(),
        }
    }
}

fn close_name(close: CloseReason) -> &'static str {
    match close {
        CloseReason::Drained => "drained",
        CloseReason::Rows => "rows",
        CloseReason::Tokens => "tokens",
        CloseReason::Bytes => "bytes",
        CloseReason::Preferred => "preferred",
        CloseReason::Delay => "delay",
        CloseReason::Isolated => "isolated",
    }
}

fn limit_label(limit: shoal_scheduler::QueueLimit) -> &'static str {
    use shoal_scheduler::QueueLimit;
    match limit {
        QueueLimit::Model => "model_queue_full",
        QueueLimit::Tenant => "tenant_queue_full",
        QueueLimit::Class => "class_queue_full",
        QueueLimit::Bytes => "queue_bytes_full",
    }
}
