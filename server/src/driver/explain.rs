//! How models, workers and waiting calls stand: the core's account, with the names that only the driver knows.

use std::ops::Range;
use std::sync::Arc;

use shoal_scheduler::{BatchReport, Explanation as Place, GroupId, ModelId, RequestId, Timestamp, WaitCause, Waiting};

use super::Driver;
use super::calls::Pending;
use super::costs::in_words;
use crate::explain::{CallStanding, ModelStanding, Queued, Report, Running, WorkerStanding};

/// Waiting calls that are told at most.
pub(super) const CALLS_MAX: usize = 1000;
/// Rows that are looked at to find them, at most: those of the oldest calls may all be with workers.
const LOOKS_MAX: usize = 20_000;

impl Driver {
    /// How everything stands, or what has to do with one model, with the calls that have waited longest.
    pub(super) fn report(&self, now: Timestamp, only: Option<ModelId>, calls_max: usize) -> Report {
        let is_meant = |id: ModelId| only.is_none_or(|only| only == id);
        let models = self.models.iter().filter(|(id, _)| is_meant(*id));
        let mut models: Vec<_> = models.filter_map(|(id, _)| self.model_standing(now, id)).collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        let mut workers: Vec<_> = self.worker_standings(now, only).collect();
        workers.sort_by(|a, b| a.name.cmp(&b.name));
        let mut looks = 0..LOOKS_MAX;
        let open = self.calls.iter().filter(|(_, pending)| is_meant(pending.model));
        let calls = open.filter_map(|(group, pending)| self.call_standing(now, group, pending, &mut looks));
        let calls = calls.take(calls_max.min(CALLS_MAX)).collect();
        let open_calls = self.calls.iter().filter(|(_, pending)| is_meant(pending.model)).count() as u64;
        Report { models, workers, calls, open_calls }
    }

    fn model_standing(&self, now: Timestamp, id: ModelId) -> Option<ModelStanding> {
        let model = self.models.get(id)?;
        let view = model.view();
        // A model that was unloaded is none of the core's.
        let queue = self.core.queue_report(id);
        let queue = queue.as_ref();
        let cost = self.core.cost(id);
        let (waits_for, until) = queue.and_then(|queue| queue.because).map(cause).unzip();
        let recent = model.recent.told(now);
        Some(ModelStanding {
            name: view.name,
            state: view.state,
            objective: view.slo,
            workers: view.workers,
            cost_text: cost.as_ref().map(|known| in_words(&known.cost)).unwrap_or_default(),
            cost,
            queued: queue.map_or_else(Queued::default, |queue| Queued {
                on_time: queue.on_time,
                late: queue.late,
                apart: queue.apart,
            }),
            oldest_age: queue.and_then(|queue| queue.oldest).map(|oldest| now.since(oldest)),
            next_due_in: queue.and_then(|queue| queue.next_due).map(|due| due.since(now)),
            waits_for,
            looks_again_in: until.flatten().map(|until| until.since(now)),
            recent_batches: recent.batches,
            recent_rows: recent.rows,
            closes: recent.closes,
            refusals: recent.refusals,
        })
    }

    fn worker_standings(&self, now: Timestamp, only: Option<ModelId>) -> impl Iterator<Item = WorkerStanding> {
        let serves = move |report: &shoal_scheduler::WorkerReport| {
            only.is_none_or(|only| report.ready.contains(&only) || report.loading.contains(&only))
        };
        self.core.worker_reports().filter(serves).filter_map(move |report| {
            let worker = self.fleet.iter().find(|worker| worker.id == report.worker)?;
            let is_known = report.batches.iter().all(|batch| !batch.expected.is_zero());
            Some(WorkerStanding {
                name: worker.name.clone(),
                device: worker.device.clone(),
                credits: u32::try_from(report.credits).unwrap_or(u32::MAX),
                free_in: is_known.then(|| report.free_at.since(now)),
                suspect_for: report.suspect_until.map(|until| until.since(now)),
                ready: self.names(&report.ready),
                loading: self.names(&report.loading),
                running: report.batches.iter().map(|batch| self.running(now, batch)).collect(),
            })
        })
    }

    fn running(&self, now: Timestamp, batch: &BatchReport) -> Running {
        Running {
            model: self.models.get(batch.model).map_or_else(|| "".into(), |model| model.settings.name.clone()),
            rows: batch.rows,
            tokens: batch.tokens,
            attempt: batch.attempt.0,
            sent_ago: now.since(batch.sent),
            running_for: batch.started.map(|started| now.since(started)),
            expected: Some(batch.expected).filter(|expected| !expected.is_zero()),
            is_probe: batch.is_probe,
            is_hedge: batch.is_hedge,
            is_apart: batch.is_apart,
        }
    }

    /// A call, if one of its rows waits: what it waits for, and where its first such row stands.
    fn call_standing(
        &self,
        now: Timestamp,
        group: GroupId,
        pending: &Pending,
        looks: &mut Range<usize>,
    ) -> Option<CallStanding> {
        let looked_at = pending.open().zip(looks);
        let mut waiting = looked_at.map(|(row, _)| (row, self.core.explain(RequestId(group.0 + u64::from(row)))));
        let (row, position, is_late, because) = waiting.find_map(|(row, place)| match place? {
            Place::Queued { position, late, because, .. } => Some((row, position, late, because)),
            Place::Running { .. } => None,
        })?;
        let caller = &pending.call.caller;
        Some(CallStanding {
            model: pending.model_name().clone(),
            tenant: caller.tenant.clone(),
            class: caller.class,
            trace_id: caller.trace.as_parent().map(|parent| parent.trace.to_string()).unwrap_or_default(),
            waited: pending.waits.waited(row, self.core.waits(pending.model, now)?),
            position: position as u64,
            is_late,
            rows: u32::try_from(pending.call.rows.len()).unwrap_or(u32::MAX),
            open_rows: u32::try_from(pending.open_rows).unwrap_or(u32::MAX),
            waits_for: cause(because).0,
            deadline_in: pending.deadline.map(|deadline| deadline.since(now)),
        })
    }

    fn names(&self, ids: &[ModelId]) -> Vec<Arc<str>> {
        let names = ids.iter().filter_map(|id| Some(self.models.get(*id)?.settings.name.clone()));
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

/// What is waited for, and until when if that is known.
fn cause(because: Waiting) -> (WaitCause, Option<Timestamp>) {
    match because {
        Waiting::NoWorker => (WaitCause::NoWorker, None),
        Waiting::ModelLoading => (WaitCause::Loading, None),
        Waiting::NoCredit => (WaitCause::WorkersBusy, None),
        Waiting::SuspectWorker { until } => (WaitCause::SuspectWorker, Some(until)),
        Waiting::Policy { until } => (WaitCause::FullerBatch, Some(until)),
    }
}
