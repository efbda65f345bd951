//! The driver: one task that owns the scheduler and everything kept by its ids.
//!
//! Every event becomes at most one input of the core, then the core's outputs are carried out until there are none.
//! Nothing here knows the wire; nothing here decides what the core decides.

mod calls;
mod costs;
mod event;
mod explain;
mod fleet;
mod flights;
mod models;
mod outputs;
mod pools;
mod quarantine;
mod recent;
mod refusals;
mod residency;
mod run;
mod served;
mod tenants;
mod tokenizers;
mod traced;
mod waits;
mod workers;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use shoal_scheduler::{
    BatchId, Group, GroupId, Input, Limits, ModelId, Request, RequestId, Scheduler, Timestamp, WorkerId,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

pub use costs::{CostErrand, CostKey, KeptCost};
pub use event::{Batch, BatchRow, Event, FromWorker, ItemError, ItemResult, ToWorker, Wanted, WorkerUp};
pub use models::{CanaryOf, Load, ModelReport, ModelSettings};
pub use pools::PoolStanding;
pub use run::{Handle, Inbox, drive};
pub use tokenizers::{ArtifactError, ArtifactWanted};

use crate::call::{Answer, Call, CallError};
use crate::explain::Report;
use crate::metrics::{Metrics, ModelMetrics};
use crate::registry::Registry;
use crate::traces::Tracer;

use calls::{Calls, Pending};
use costs::Keeping;
use fleet::Fleet;
use flights::{Flight, Flights};
use models::{Model, Models};
use pools::Busy;
use refusals::{Arrived, Ended, quarantined, reason_without_model};
use tenants::Tenants;
use tokenizers::Fetches;
use traced::End;
use waits::WaitBook;

/// What the driver needs besides events.
#[derive(Debug)]
pub struct Surroundings {
    /// Where the request path reads what the driver knows of models.
    pub registry: Registry,
    /// Where things are counted.
    pub metrics: Metrics,
    /// Who starts and ends the processes of local workers.
    pub supervisor: mpsc::UnboundedSender<ToSupervisor>,
    /// Who reads and keeps tokenizers.
    pub artifacts: mpsc::UnboundedSender<ArtifactWanted>,
    /// Who keeps what models cost.
    pub costs: mpsc::UnboundedSender<CostErrand>,
    /// Bytes of models that a worker is to hold at most.
    pub resident_bytes_max: Option<NonZeroU64>,
    /// Who shows what became of calls.
    pub tracer: Tracer,
}

/// What the supervisor of local workers is told.
#[derive(Debug, PartialEq, Eq)]
pub enum ToSupervisor {
    /// The process hangs: end it and start another.
    Replace(Arc<str>),
    /// The worker has loaded a model: this life of it was worth starting.
    Useful(Arc<str>),
}

/// The state machine around the core.
#[derive(Debug)]
pub struct Driver {
    core: Scheduler,
    /// The core's time zero.
    origin: Instant,
    calls: Calls,
    /// Calls that have every result and wait for the end of a batch, by their deadline: the core, which keeps deadlines,
    /// is done with them.
    unended: BTreeSet<(Timestamp, GroupId)>,
    /// With workers.
    batches: Flights,
    models: Models,
    model_metrics: BTreeMap<ModelId, ModelMetrics>,
    fleet: Fleet,
    tenants: Tenants,
    fetches: Fetches,
    keeping: Keeping,
    /// Who was told to load what since the models that are wanted last changed.
    asked_to_load: BTreeSet<(WorkerId, ModelId)>,
    /// Those that had workers when they were last measured.
    pools: BTreeSet<Arc<str>>,
    busy: Busy,
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
            unended: BTreeSet::new(),
            batches: Flights::new(),
            models: Models::default(),
            model_metrics: BTreeMap::new(),
            fleet: Fleet::default(),
            tenants: Tenants::default(),
            fetches: Fetches::default(),
            keeping: Keeping::default(),
            asked_to_load: BTreeSet::new(),
            pools: BTreeSet::new(),
            busy: Busy::default(),
            drained: None,
            follow_ups: VecDeque::new(),
            around,
        }
    }

    /// One thing happened.
    pub fn apply(&mut self, now: Instant, event: Event) {
        self.happened(now, event);
        self.follow_up(now);
    }

    fn happened(&mut self, now: Instant, event: Event) {
        match event {
            Event::Submit { first, call, reply } => self.submit(now, first, call, reply),
            Event::WorkerUp(up) => self.worker_up(now, up),
            Event::Worker { epoch, said } => self.worker_said(now, epoch, said),
            Event::ProcessEnded { worker, cause } => {
                let departed = self.fleet.process_ended(&worker, cause);
                self.depart(now, departed);
            }
            Event::Configure { models, done } => {
                self.configure(now, models);
                let _ = done.send(());
            }
            Event::Want { model, wanted, done } => {
                // What is asked for is needed, as if it was called.
                if let Some(id) = self.models.id(&model).filter(|_| wanted) {
                    self.called(now, id);
                }
                self.want(now, &model, wanted);
                let _ = done.send(());
            }
            Event::Tokenizer { sha256, result } => self.tokenizer_read(&sha256, result),
            Event::Cost { model, key, found } => self.cost_looked_up(now, &model, key, found),
            Event::KeepCosts { done } => self.keep_costs_now(done),
            Event::Dismiss { grace } => {
                for worker in self.fleet.iter().filter(|worker| worker.local) {
                    worker.send(ToWorker::Drain { grace });
                }
            }
            Event::Measure { done } => {
                self.measure(self.stamp(now));
                let _ = done.send(());
            }
            Event::Explain { model, calls_max, done } => {
                let only = model.map(|name| self.models.id(&name));
                let report = match only {
                    // Its name was taken out of the configuration a moment ago.
                    Some(None) => Report::default(),
                    only => self.report(self.stamp(now), only.flatten(), calls_max),
                };
                let _ = done.send(report);
            }
            Event::Pool { pool, models, done } => {
                let _ = done.send(self.pool(self.stamp(now), &pool, &models));
            }
            Event::Awaited { model } => self.awaited(now, &model),
            Event::GaveUp { model, error } => {
                if let Some(id) = self.models.id(&model) {
                    self.count_refusal(self.stamp(now), id, &error, reason_without_model(&error));
                }
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
        if let Some(mut pending) = self.take_call(self.stamp(now), group) {
            let (caller, model) = (&pending.call.caller, &*pending.call.model);
            debug!(request_id = group.0, trace_id = caller.trace.id(), model, "call cancelled");
            self.show_cancelled(self.stamp(now), &mut pending);
            if let Some(metrics) = self.model_metrics.get(&pending.model) {
                metrics.call("CANCELLED");
            }
            self.feed(now, Input::Cancel(group), None);
        }
        self.follow_up(now);
    }

    /// Feeds what came up after the last input was.
    fn follow_up(&mut self, now: Instant) {
        if let Some(next) = self.follow_ups.pop_front() {
            self.feed(now, next, None);
        }
    }

    /// The time asked for by [`Self::next_wake`] has come.
    pub fn tick(&mut self, now: Instant) {
        while let Some(departed) = self.fleet.overdue(now) {
            // Its process is there and does not dial again: stopped, or stuck.
            let _ = self.around.supervisor.send(ToSupervisor::Replace(departed.worker.name.clone()));
            self.depart(now, Some(departed));
        }
        self.unload_idle(now);
        let stamp = self.stamp(now);
        let still_open = self.unended.split_off(&(stamp + Duration::from_nanos(1), GroupId(0)));
        for (_, group) in std::mem::replace(&mut self.unended, still_open) {
            self.refuse(stamp, group, Ended::WithResults, CallError::DeadlinePassed, "deadline_passed");
        }
        self.feed(now, Input::Tick, None);
        self.follow_up(now);
    }

    /// When to call [`Self::tick`] if nothing happens before.
    pub fn next_wake(&self) -> Option<Instant> {
        let core = self.core.poll_timeout().map(|(at, _)| self.instant(at));
        let unended = self.unended.first().map(|(deadline, _)| self.instant(*deadline));
        let idle = self.next_idle().map(|at| self.instant(at));
        core.into_iter().chain(self.fleet.next_overdue()).chain(unended).chain(idle).min()
    }

    /// Sets the gauges that are read off the whole state.
    fn measure(&mut self, now: Timestamp) {
        let metrics = &self.around.metrics;
        let counts = self.core.counts();
        metrics.calls_in_flight.set(self.calls.len() as i64);
        metrics.rows_in_flight.set(counts.running as i64);
        metrics.suspect_workers.set(counts.suspects as i64);
        metrics.stale_replies.set(counts.replies_dropped);
        for (id, model) in &self.model_metrics {
            let queued = self.core.queue(*id).map_or(0, |queue| queue.requests);
            model.queued_rows.set(queued as i64);
            let held = self.models.get(*id).map_or(0, |known| known.quarantine.len(now));
            model.quarantined_inputs.set(held as i64);
        }
        self.measure_costs();
        self.measure_pools(now);
    }

    fn submit(&mut self, now: Instant, first: u64, mut call: Call, reply: oneshot::Sender<Result<Answer, CallError>>) {
        if reply.is_closed() {
            return; // Its caller went away while it was on its way here.
        }
        let takes = |name: &Arc<str>| self.models.id_to_call(name);
        // What was tried in another one's place may have gone in this moment.
        let can_run = |id: &ModelId| self.models.get(*id).is_some_and(|model| model.refusal().is_none());
        let instead = || call.stands_in_for.as_ref().and_then(takes);
        let Some(model) = takes(&call.model).filter(can_run).or_else(instead).or_else(|| takes(&call.model)) else {
            let error = CallError::UnknownModel { model: call.model.to_string(), near: None };
            let _ = reply.send(Err(error));
            return;
        };
        if let Some(known) = self.models.get(model).filter(|_| call.stands_in_for.is_some()) {
            call.model = known.settings.name.clone();
        }
        let stamp = self.stamp(now);
        self.called(now, model);
        if let Some(reason) = self.models.get(model).and_then(Model::refusal) {
            let error = CallError::ModelNotReady { model: call.model.to_string(), reason };
            return self.turn_away(stamp, model, Arrived { first, call, reply }, error, "model_not_ready");
        }
        let held = self.models.get_mut(model).and_then(|model| model.quarantine.find(stamp, &call.rows));
        if let Some((row, since)) = held {
            let error = quarantined(row, stamp.since(since));
            return self.turn_away(stamp, model, Arrived { first, call, reply }, error, "quarantined");
        }
        let deadline = call.caller.deadline.map(|deadline| self.stamp(deadline));
        let group = Group {
            id: GroupId(first),
            model,
            tenant: self.tenants.enter(&call.caller.tenant),
            class: call.caller.class,
            deadline,
            requests: (first..)
                .zip(&call.rows)
                .map(|(id, row)| Request { id: RequestId(id), cost: row.cost() })
                .collect(),
        };
        let waits = WaitBook::new(call.rows.len(), self.core.waits(model, stamp).unwrap_or_default());
        self.calls.insert(first, Pending::new(call, model, stamp, deadline, reply, waits));
        if let Some(model) = self.models.get_mut(model) {
            model.open_calls += 1;
        }
        self.feed(now, Input::SubmitGroup(group), None);
    }

    /// Takes a call off the books.
    fn take_call(&mut self, now: Timestamp, group: GroupId) -> Option<Pending> {
        let pending = self.calls.remove(group)?;
        if let Some(model) = self.models.get_mut(pending.model) {
            model.open_calls = model.open_calls.saturating_sub(1);
        }
        if self.models.remove_if_gone(pending.model) {
            self.model_metrics.remove(&pending.model);
            self.around.metrics.forget_model(pending.model_name());
            self.follow_ups.push_back(Input::ConfigChanged(self.models.core_configs()));
        }
        self.tenants.leave(&pending.call.caller.tenant);
        if let Some(deadline) = pending.deadline {
            self.unended.remove(&(deadline, group));
        }
        if let (Some(metrics), Some(shown)) =
            (self.model_metrics.get(&pending.model), self.core.waits(pending.model, now))
        {
            metrics.waited(pending.waits.left(shown, |row| pending.is_open(row)));
        }
        Some(pending)
    }

    /// Answers a call that has all it waits for. `ending` is the batch that ends just now, if one does.
    fn finish_if_done(&mut self, now: Timestamp, group: GroupId, ending: Option<(BatchId, &mut Flight)>) {
        let Some(pending) = self.calls.group(group) else { return };
        if !pending.is_done() {
            let waits_for_end = pending.open_rows == 0;
            if let Some(deadline) = pending.deadline.filter(|_| waits_for_end) {
                self.unended.insert((deadline, group));
            }
            return;
        }
        if let Some(mut pending) = self.take_call(now, group) {
            let taken = now.since(pending.submitted);
            let objective = self.models.get(pending.model).map(|model| model.settings.slo);
            let is_late = objective.is_some_and(|objective| taken > objective);
            let (caller, model) = (&pending.call.caller, &*pending.call.model);
            debug!(request_id = group.0, trace_id = caller.trace.id(), model, ?taken, "call answered");
            let shown = self.show(now, group, &mut pending, End { is_late, ..End::default() }, ending);
            if let Some(metrics) = self.model_metrics.get(&pending.model) {
                metrics.call("OK");
                metrics.call_duration.observe(taken, shown.map(|span| span.trace));
            }
            if !pending.answer(objective.unwrap_or_default()) {
                self.unshow(shown);
            }
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
        let payload: usize = self.columns.iter().map(|column| column.len()).sum();
        shoal_scheduler::Cost {
            rows: 1,
            tokens: self.tokens,
            tokens_squared: tokens * tokens,
            // Targets travel as a column of their own.
            bytes: (payload + size_of_val(&self.options.targets[..])) as u64,
        }
    }
}
