//! What workers say about batches. Anything that does not name a batch as it is now is dropped and counted.

use core::time::Duration;

use super::Scheduler;
use crate::inflight::Batch;
use crate::{Attempt, BatchFailure, BatchId, Epoch, Failure, ItemOutcome, Output, RequestId, WorkerId};

/// How a reply names the batch it is about.
pub(super) type Address = (WorkerId, Epoch, BatchId, Attempt);

impl Scheduler {
    /// One request has its outcome.
    pub(super) fn item_done(&mut self, address: Address, request: RequestId, outcome: ItemOutcome) {
        let (_, _, batch, _) = address;
        let is_current = self.is_current(address);
        let twin = if is_current { self.inflight.twin_with(batch, request) } else { None };
        let mut running_in = is_current.then_some(batch).into_iter().chain(twin);
        let Some(live) = running_in.find_map(|batch| self.requests.remove_running(request, batch)) else {
            self.replies_dropped += 1;
            if is_current {
                self.inflight.report_withdrawn(batch, request);
            }
            return;
        };
        let is_clear = outcome == ItemOutcome::Ok;
        match outcome {
            ItemOutcome::Ok => self.outputs.push_back(Output::Complete { request }),
            ItemOutcome::Failed => self.fail_call(request, live.group, Failure::Item),
        }
        if let Some(twin) = twin {
            self.spare(twin, request, is_clear);
        }
    }

    /// The worker is through with a batch. What it did not report, it broke.
    pub(super) fn batch_end(&mut self, address: Address) {
        let Some(mut batch) = self.close(address) else { return };
        let unreported = self.unreported(address.2, &mut batch);
        if unreported.is_empty() {
            self.fleet.count_good(batch.worker, batch.model);
            self.learn(address.2, &batch);
        } else {
            self.suspect_items(&batch, &unreported);
        }
    }

    /// The worker could not get through with a batch.
    pub(super) fn batch_failed(&mut self, address: Address, reason: BatchFailure) {
        let Some(mut batch) = self.close(address) else { return };
        let unreported = self.unreported(address.2, &mut batch);
        match reason {
            BatchFailure::Item => self.suspect_items(&batch, &unreported),
            BatchFailure::OutOfMemory => self.shrink(&batch, &unreported),
            BatchFailure::Device | BatchFailure::Timeout => self.lose(&batch, &unreported),
        }
        self.probe_failed(address.2, &batch);
    }

    /// How long a batch took that went well, as seen from here: what its requests waited for, but for weights.
    fn learn(&mut self, id: BatchId, batch: &Batch) {
        if batch.is_probe {
            return self.probe_ended(id, batch);
        }
        if let (Some(model), Some(taken)) = (self.models.get_mut(&batch.model), batch.computed(self.now)) {
            // Workers leave out what nobody wants any more. What was hedged and took too long all the same did so at least.
            let is_whole = batch.withdrawn.is_empty() && batch.spared == 0;
            let is_slow = || taken > model.costs.high(batch.worker, batch.size());
            if !is_whole && (batch.spared == 0 || !is_slow()) {
                return;
            }
            model.observe(batch.worker, batch.size(), taken);
            self.stirred.insert(batch.model);
        }
    }

    /// Takes a batch that ended out of the tables, if the reply is about it.
    fn close(&mut self, address: Address) -> Option<Batch> {
        if !self.is_current(address) {
            self.replies_dropped += 1;
            return None;
        }
        let (worker, _, id, _) = address;
        let batch = self.inflight.remove(id)?;
        let link = self.fleet.link_mut(worker)?;
        let was_first = link.outstanding.front() == Some(&id);
        link.outstanding.retain(|outstanding| *outstanding != id);
        link.rows -= u64::from(batch.rows);
        link.is_apart &= !link.outstanding.is_empty();
        link.free_at = self.now;
        for id in link.outstanding.iter() {
            link.free_at = link.free_at + self.inflight.get(*id).map_or(Duration::ZERO, |batch| batch.expected);
        }
        if was_first && let Some(next) = link.outstanding.front().copied() {
            self.inflight.start_clock(next, self.now);
        }
        self.believe_weights(batch.model, worker);
        self.fleet.place(worker);
        self.reconsider(worker, &batch);
        self.stir_waiting();
        if self.is_sharing {
            // What fits the worker's memory may be learned from it.
            self.stirred.insert(batch.model);
        }
        self.unload_if_unwanted(worker, batch.model);
        Some(batch)
    }

    pub(super) fn is_current(&self, (worker, epoch, batch, attempt): Address) -> bool {
        let batch = self.inflight.get(batch);
        batch.is_some_and(|batch| (batch.worker, batch.epoch, batch.attempt) == (worker, epoch, attempt))
    }
}
