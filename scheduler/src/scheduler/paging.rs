//! Weights that come onto devices and go from there.
//!
//! What a worker said last is kept with its link. What is expected of it differs for as long as a batch of a model is on its
//! way there or runs: that will have brought the weights by the time another could follow.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use super::Scheduler;
use super::replies::Address;
use crate::{Epoch, ModelId, WorkerId};

impl Scheduler {
    /// A batch of a model is on its way to a worker: its weights will be there when the next one comes.
    pub(super) fn expect_weights(&mut self, model: ModelId, worker: WorkerId) {
        self.note_weights(model, worker, true);
    }

    /// Nothing of a model is on its way to a worker any more, or it has just come to hold it: its weights are where it said.
    pub(super) fn believe_weights(&mut self, model: ModelId, worker: WorkerId) {
        let Some(link) = self.fleet.link(worker) else { return };
        let runs =
            |of: ModelId| link.outstanding.iter().any(|id| self.inflight.get(*id).is_some_and(|b| b.model == of));
        let are_there = !link.absent.contains(&model) || runs(model);
        self.note_weights(model, worker, are_there);
    }

    /// A batch had to wait for its model's weights.
    pub(super) fn paged_in(&mut self, address: Address, taken: Duration) {
        if !self.is_current(address) {
            self.replies_dropped += 1;
            return;
        }
        let Some((model, taken)) = self.inflight.note_page_in(address.2, taken, self.now) else { return };
        if let Some(model) = self.models.get_mut(&model) {
            model.costs.observe_page_in(taken);
        }
    }

    /// A worker says which weights are not on its device.
    pub(super) fn weights_told(&mut self, worker: WorkerId, epoch: Epoch, absent: Vec<ModelId>) {
        if !self.check_epoch(worker, epoch) {
            return;
        }
        let Some(link) = self.fleet.link_mut(worker) else { return };
        let before = core::mem::replace(&mut link.absent, absent.into_iter().collect());
        let ready: BTreeSet<ModelId> = link.ready_models().collect();
        let changed: Vec<ModelId> = before.symmetric_difference(&link.absent).copied().collect();
        for model in changed.into_iter().filter(|model| ready.contains(model)) {
            self.believe_weights(model, worker);
        }
    }

    fn note_weights(&mut self, id: ModelId, worker: WorkerId, are_there: bool) {
        if self.models.get_mut(&id).is_some_and(|model| model.costs.note_weights(worker, are_there)) {
            self.stirred.insert(id);
        }
    }
}
