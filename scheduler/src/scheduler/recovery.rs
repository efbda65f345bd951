//! What becomes of requests whose batch failed under them: retried in place, halved apart, or given up.
//!
//! Every way through here ends. A suspect batch is halved until one request is alone; losses are counted and bounded.

use alloc::vec::Vec;

use super::Scheduler;
use crate::inflight::Batch;
use crate::requests::Place;
use crate::{Attempt, BatchId, DeviceId, Failure, RequestId};

impl Scheduler {
    /// One of the items broke the batch. The culprit may be a withdrawn one, so one that is left is guilty only when
    /// nothing else was.
    pub(super) fn suspect_items(&mut self, batch: &Batch, unreported: &[RequestId]) {
        let is_alone = unreported.len() + batch.withdrawn.len() == 1 && !batch.has_company();
        self.bisect(unreported, is_alone, Failure::Poison);
    }

    /// The batch took its worker down. A crash may come late, so items with a result do not clear the one without: it
    /// is guilty only when nothing else was in the batch.
    pub(super) fn suspect_crash(&mut self, batch: &Batch, unreported: &[RequestId]) {
        let is_alone = batch.requests.len() == 1 && !batch.has_company();
        self.bisect(unreported, is_alone, Failure::Poison);
    }

    /// The batch ran when its device broke. Devices break by themselves as well, and one that is worn out again and again,
    /// so a request is guilty only when two broke under it, on however many workers. Until then one that is alone is lost, and runs again
    /// apart.
    pub(super) fn suspect_break(&mut self, batch: &Batch, device: DeviceId, unreported: &[RequestId]) {
        let mut broke_another = false;
        for id in unreported {
            broke_another |= self.requests.note_break(*id, device);
        }
        if broke_another || batch.requests.len() > 1 || batch.has_company() {
            return self.suspect_crash(batch, unreported);
        }
        self.lose_apart(unreported);
    }

    /// The batch, or another that was with the same device, broke that: whichever it was, it runs again with nothing else in it.
    pub(super) fn lose_apart(&mut self, unreported: &[RequestId]) {
        let kept = self.count_losses(unreported);
        self.isolate(&kept);
    }

    /// The batch did not fit the worker's memory. Parts teach nothing: one request too large for any device would drag
    /// the cap down through all its halves.
    pub(super) fn shrink(&mut self, batch: &Batch, unreported: &[RequestId]) {
        if !batch.isolated {
            let size = batch.size();
            let [rows, tokens] = [size.rows, size.tokens].map(|sum| u32::try_from(sum).unwrap_or(u32::MAX));
            self.fleet.shrink_cap(batch.worker, batch.model, rows, tokens);
        }
        let is_alone = batch.requests.len() == 1 && !batch.has_company();
        self.bisect(unreported, is_alone, Failure::OutOfMemory);
    }

    /// The batch was lost while it could have been running, through no fault of its own.
    pub(super) fn lose(&mut self, batch: &Batch, unreported: &[RequestId]) {
        let kept = self.count_losses(unreported);
        self.requeue(batch, &kept);
    }

    /// Gives up those that were lost too often, and returns the others.
    fn count_losses(&mut self, unreported: &[RequestId]) -> Vec<RequestId> {
        let mut kept = Vec::with_capacity(unreported.len());
        for id in unreported {
            let losses = self.requests.count_loss(*id);
            if losses >= self.admission.attempts_max() {
                self.fail(*id, Failure::WorkerLost { attempts: Attempt(losses) });
            } else {
                kept.push(*id);
            }
        }
        kept
    }

    /// The batch never ran. Its requests go back to where they were; a part stays apart.
    pub(super) fn requeue(&mut self, batch: &Batch, unreported: &[RequestId]) {
        if batch.isolated {
            self.isolate(unreported);
        } else {
            unreported.iter().for_each(|id| self.enqueue(*id));
        }
    }

    /// The requests of a batch that ended without a result, taken from the worker. Those that its twin runs as well are
    /// left to that, though any of them may be what broke this one.
    pub(super) fn unreported(&mut self, id: BatchId, batch: &mut Batch) -> Vec<RequestId> {
        if let Some(twin) = batch.twin {
            self.inflight.unpair(twin);
        }
        let mut unreported = Vec::new();
        for request in &batch.requests {
            let Some(live) = self.requests.get(*request).copied() else { continue };
            if live.place != Place::Running(id) {
                continue;
            }
            let has_it = |twin: &BatchId| self.inflight.get(*twin).is_some_and(|twin| twin.requests.contains(request));
            if let Some(twin) = batch.twin.filter(has_it) {
                self.requests.carry_on(*request, twin);
                batch.withdrawn.push(*request);
            } else {
                self.requests.put(*request, Place::Between, self.now, live.expires);
                unreported.push(*request);
            }
        }
        unreported
    }

    /// Fails the one culprit, or halves the suspects.
    fn bisect(&mut self, suspects: &[RequestId], is_alone: bool, verdict: Failure) {
        match suspects {
            [culprit] if is_alone => self.fail(*culprit, verdict),
            _ => {
                let (one, other) = suspects.split_at(suspects.len().div_ceil(2));
                self.isolate(one);
                self.isolate(other);
            }
        }
    }
}
