//! Why a request is where it is, and how queues and workers stand, as data for people who ask.

use core::time::Duration;

use super::Scheduler;
use crate::fleet::{Holding, Link};
use crate::model::Model;
use crate::report::{BatchReport, QueueReport, Situation, WorkerReport};
use crate::requests::Place;
use crate::{Attempt, BatchId, Cost, Explanation, ModelId, RequestId, WaitCause, Waiting, WorkerId};

impl Scheduler {
    /// Where a request is and why. `None` when it has ended or was never admitted. Looks at those in parts of failed
    /// batches one by one, so it is for people, not for every request.
    pub fn explain(&self, id: RequestId) -> Option<Explanation> {
        let request = self.requests.get(id)?;
        let (model, since) = (request.model, request.since);
        if let Place::Running(batch) = request.place {
            let worker = self.inflight.get(batch)?.worker;
            return Some(Explanation::Running { model, worker, batch, attempt: Attempt(request.attempt), since });
        }
        let known = self.models.get(&model)?;
        let position = known.queue.position(request.item(id).rank);
        Some(Explanation::Queued { model, position, since, late: request.late, because: known.waits_for() })
    }

    /// How a model's queue stands. Looks at those in parts of failed batches one by one.
    pub fn queue_report(&self, id: ModelId) -> Option<QueueReport> {
        let model = self.models.get(&id)?;
        let queue = &model.queue;
        Some(QueueReport {
            on_time: queue.by_class(),
            late: queue.late().requests,
            apart: queue.apart().requests,
            oldest: queue.oldest(),
            next_due: queue.first_due(),
            because: (!queue.is_empty()).then(|| model.waits_for()),
        })
    }

    /// What a request like this one finds before it if it comes now.
    pub fn situation(&self, id: ModelId, cost: Cost) -> Option<Situation> {
        let model = self.models.get(&id)?;
        let first = self.fleet.pools.free_times(id, self.now, 1).first().copied();
        let alone = |worker: WorkerId| model.costs.expected(worker, cost.into());
        Some(Situation {
            queued: model.queue.totals().requests,
            workers: self.fleet.ready(id),
            are_busy: self.worker_for(id).is_none(),
            free_at: first.map(|(at, _)| at),
            alone: first.map(|(_, worker)| alone(worker)).filter(|time| *time > Duration::ZERO),
            because: model.waits.cause(),
        })
    }

    /// How each connected worker stands.
    pub fn worker_reports(&self) -> impl Iterator<Item = WorkerReport> {
        self.fleet.connected().map(|(worker, _, link)| self.worker_report(worker, link))
    }

    fn worker_report(&self, worker: WorkerId, link: &Link) -> WorkerReport {
        let loading = link.holdings.iter().filter(|(_, holding)| **holding == Holding::Loading);
        WorkerReport {
            worker,
            credits: link.credits(),
            free_at: link.free_at.max(self.now),
            suspect_until: link.suspect.map(|suspect| suspect.probe_at),
            ready: link.ready_models().collect(),
            loading: loading.map(|(model, _)| *model).collect(),
            batches: link.outstanding.iter().filter_map(|id| self.batch_report(*id)).collect(),
        }
    }

    /// What is known of a batch that is with a worker.
    pub fn batch_report(&self, id: BatchId) -> Option<BatchReport> {
        let batch = self.inflight.get(id)?;
        Some(BatchReport {
            batch: id,
            model: batch.model,
            rows: batch.rows,
            tokens: batch.tokens,
            attempt: batch.attempt,
            sent: batch.sent,
            started: batch.started,
            expected: batch.expected,
            is_probe: batch.is_probe,
            is_hedge: batch.is_hedge,
            is_apart: batch.isolated,
        })
    }
}

impl Model {
    /// What its queue waits for, and until when if that is known.
    fn waits_for(&self) -> Waiting {
        match (self.waits.cause(), self.wake) {
            (WaitCause::NoWorker, _) => Waiting::NoWorker,
            (WaitCause::Loading, _) => Waiting::ModelLoading,
            (WaitCause::SuspectWorker, Some(until)) => Waiting::SuspectWorker { until },
            (WaitCause::FullerBatch, Some(until)) => Waiting::Policy { until },
            // A policy never waits without an end.
            (WaitCause::WorkersBusy | WaitCause::SuspectWorker | WaitCause::FullerBatch, _) => Waiting::NoCredit,
        }
    }
}
