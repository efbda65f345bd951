//! The driver: one task that owns the scheduler and everything kept by its ids.
//!
//! Every event becomes at most one input of the core, then the core's outputs are carried out until there are none.
//! Nothing here knows the wire; nothing here decides what the core decides.

mod calls;
mod event;
mod fleet;
mod models;
mod outputs;
mod run;
mod served;
mod workers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use shoal_scheduler::{
    BatchId, Dispatch, Group, GroupId, Input, Limits, ModelId, Request, RequestId, Scheduler, TenantId, Timestamp,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub use event::{Batch, BatchRow, Event, FromWorker, ItemError, ItemResult, ToWorker, WorkerUp};
pub use models::{ModelReport, ModelSettings};
pub use run::{Handle, Inbox, drive};

use crate::call::{Answer, Call, CallError};
use crate::metrics::{Metrics, ModelMetrics};
use crate::registry::Registry;

use calls::{Calls, Pending};
use fleet::Fleet;
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
