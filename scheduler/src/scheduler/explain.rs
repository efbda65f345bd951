//! Why a request is where it is, as data.

use super::Scheduler;
use crate::fleet::Holding;
use crate::requests::{Live, Place};
use crate::{Attempt, Explanation, RequestId, Waiting};

impl Scheduler {
    /// Where a request is and why. `None` when it has ended or was never admitted. Counts positions one by one, so it is
    /// for people, not for every request.
    pub fn explain(&self, id: RequestId) -> Option<Explanation> {
        let request = self.requests.get(id)?;
        let (model, since) = (request.model, request.since);
        if let Place::Running(batch) = request.place {
            let worker = self.inflight.get(batch)?.worker;
            return Some(Explanation::Running { model, worker, batch, attempt: Attempt(request.attempt), since });
        }
        let position = self.models.get(&model)?.queue.position(request.item(id).rank);
        Some(Explanation::Queued { model, position, since, because: self.why_waiting(request) })
    }

    fn why_waiting(&self, request: &Live) -> Waiting {
        let is_any = |wanted: &[Holding]| {
            let mut holdings = self.fleet.connected().filter_map(|(_, _, link)| link.holdings.get(&request.model));
            holdings.any(|holding| wanted.contains(holding))
        };
        if is_any(&[Holding::Ready]) {
            let wake = self.models.get(&request.model).and_then(|model| model.wake);
            // A credit that is free and not used means that the policy waits.
            let worker = self.worker_for(request.model);
            if let Some(until) = worker.and_then(|worker| self.hold_until(request.model, worker)) {
                return Waiting::SuspectWorker { until };
            }
            let has_credit = worker.is_some();
            return wake.filter(|_| has_credit).map_or(Waiting::NoCredit, |until| Waiting::Policy { until });
        }
        // One that is being unloaded is loaded again right after: the model is configured, or nothing would be queued.
        if is_any(&[Holding::Loading, Holding::Unloading]) { Waiting::ModelLoading } else { Waiting::NoWorker }
    }
}
