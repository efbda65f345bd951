//! The moves of a request between queue, part, worker and end. Every other file moves requests only through these, so
//! that all tables stay in step.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use super::Scheduler;
use crate::queue::Item;
use crate::requests::{Live, Place};
use crate::{BatchId, Failure, GroupId, ModelId, Output, RequestId};

/// Of each second of a worker's time, so much must be asked for before batches are worth waiting for.
const BUSY_FROM: Duration = Duration::from_millis(300);

/// Running requests that are no longer wanted, to be told to their workers batch by batch.
#[derive(Debug, Default)]
pub(super) struct Unwanted(BTreeMap<BatchId, Vec<RequestId>>);

impl Scheduler {
    /// Queues a request that was just admitted.
    pub(super) fn enter(&mut self, id: RequestId, mut request: Live) {
        let Some(model) = self.models.get_mut(&request.model) else {
            // It was admitted by this very model, in this very step.
            self.outputs.push_back(Output::Fail { request: id, why: Failure::ModelRemoved });
            return;
        };
        self.demand.add(self.now, model.time_asked(request.cost.into()));
        let workers = self.fleet.lives().max(1);
        model.is_busy = self.demand.per_second(self.now) >= BUSY_FROM * workers;
        (request.place, request.since) = (Place::Queued, self.now);
        request.expires = request.deadline.min(model.queue_timeout(self.now));
        model.queue.push(request.item(id));
        self.admission.enter(&request);
        self.stirred.insert(request.model);
        self.requests.insert(id, request);
    }

    /// Queues a request that is nowhere, or fails it when its model is gone.
    pub(super) fn enqueue(&mut self, id: RequestId) {
        let Some(mut request) = self.requests.get(id).copied() else { return };
        let Some(model) = self.models.get_mut(&request.model) else {
            self.fail(id, Failure::ModelRemoved);
            return;
        };
        // Its model may have been given a policy that knows no lateness meanwhile.
        request.late &= model.on_late().is_some();
        self.requests.mark_late(id, request.late);
        model.queue.push(request.item(id));
        let expires = request.deadline.min(model.queue_timeout(self.now));
        self.requests.put(id, Place::Queued, self.now, expires);
        self.admission.enter(&request);
        self.stirred.insert(request.model);
    }

    /// Queues requests of one model that are nowhere as one part, or fails them when the model is gone.
    pub(super) fn isolate(&mut self, ids: &[RequestId]) {
        // A part has its turn where its requests stood before they were late.
        ids.iter().for_each(|id| self.requests.mark_late(*id, false));
        let requests: Vec<(RequestId, Live)> =
            ids.iter().filter_map(|id| Some((*id, *self.requests.get(*id)?))).collect();
        let Some((_, first)) = requests.first() else { return };
        let Some(model) = self.models.get_mut(&first.model) else {
            ids.iter().for_each(|id| self.fail(*id, Failure::ModelRemoved));
            return;
        };
        let members: Vec<Item> = requests.iter().map(|(id, request)| request.item(*id)).collect();
        let Some(part) = model.queue.push_part(members) else { return };
        let timeout = model.queue_timeout(self.now);
        self.stirred.insert(first.model);
        for (id, request) in &requests {
            self.requests.put(*id, Place::Isolated(part), self.now, request.deadline.min(timeout));
            self.admission.enter(request);
        }
    }

    /// What did not fit a worker's budget of a part stays queued, as a part of its own.
    pub(super) fn keep_apart(&mut self, model: ModelId, rest: &[Item]) {
        let part = self.models.get_mut(&model).and_then(|model| model.queue.push_part(rest.to_vec()));
        for id in rest.iter().map(|item| item.rank.id) {
            let request = self.requests.get(id).map(|request| (request.since, request.expires));
            if let (Some(part), Some((since, expires))) = (part, request) {
                self.requests.put(id, Place::Isolated(part), since, expires);
            }
        }
    }

    /// Hands queued requests of a model, already taken out of their queue, to a worker. Returns their highest attempt.
    pub(super) fn run(&mut self, model: ModelId, ids: &[RequestId], batch: BatchId) -> u16 {
        let mut highest = 0;
        let mut model = self.models.get_mut(&model);
        for id in ids {
            let Some(request) = self.requests.start(*id, batch, self.now) else { continue };
            self.admission.serve(self.now, request);
            if let Some(model) = &mut model {
                let time = model.time_asked(request.cost.into());
                model.shares.add(self.now, request.tenant, time);
            }
            highest = request.attempt.max(highest);
        }
        highest
    }

    /// Ends a request without a word, wherever it is.
    pub(super) fn drop_request(&mut self, id: RequestId, unwanted: &mut Unwanted) {
        let Some(request) = self.requests.remove(id) else { return };
        match request.place {
            Place::Between => {}
            Place::Running(batch) => {
                for batch in self.inflight.twin_with(batch, id).into_iter().chain([batch]) {
                    self.inflight.withdraw(batch, id);
                    unwanted.0.entry(batch).or_default().push(id);
                }
            }
            Place::Queued => {
                self.admission.leave(&request);
                if let Some(model) = self.models.get_mut(&request.model) {
                    model.queue.remove(request.item(id).rank);
                }
                // Its policy may have been waiting on this very request.
                self.stirred.insert(request.model);
            }
            Place::Isolated(part) => {
                self.admission.leave(&request);
                if let Some(model) = self.models.get_mut(&request.model) {
                    model.queue.remove_member(part, id);
                }
                self.stirred.insert(request.model);
            }
        }
    }

    /// Fails a request that is nowhere.
    pub(super) fn fail(&mut self, id: RequestId, why: Failure) {
        if let Some(request) = self.requests.remove(id) {
            self.fail_call(id, request.group, why);
        }
    }

    /// Reports a request that failed and was taken out. Its call fails with it, so what is left of that ends as if its
    /// client had cancelled it: nobody waits for the results.
    pub(super) fn fail_call(&mut self, id: RequestId, group: GroupId, why: Failure) {
        self.outputs.push_back(Output::Fail { request: id, why });
        if self.requests.has_group(group) {
            self.cancel(group);
        }
    }

    /// Tells the workers what is no longer wanted of them.
    pub(super) fn cancel_running(&mut self, unwanted: Unwanted) {
        for (id, requests) in unwanted.0 {
            if let Some(batch) = self.inflight.get(id) {
                let (worker, epoch) = (batch.worker, batch.epoch);
                self.outputs.push_back(Output::CancelRunning { worker, epoch, batch: id, requests });
            }
        }
    }
}
