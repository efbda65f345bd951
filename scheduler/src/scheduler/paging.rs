//! Weights that come onto devices and go from there.

use alloc::vec::Vec;
use core::time::Duration;

use super::Scheduler;
use super::replies::Address;
use crate::{ModelId, WorkerId};

impl Scheduler {
    /// A batch of a model is on its way to a worker: its weights will be there when the next one comes.
    pub(super) fn expect_weights(&mut self, model: ModelId, worker: WorkerId) {
        if self.models.get_mut(&model).is_some_and(|model| model.costs.note_weights(worker, true)) {
            self.stirred.insert(model);
        }
    }

    /// A batch had to wait for its model's weights, in place of which others may have gone.
    pub(super) fn paged_in(&mut self, address: Address, taken: Duration, absent: &[ModelId]) {
        if !self.is_current(address) {
            self.replies_dropped += 1;
            return;
        }
        let (worker, _, batch, _) = address;
        let Some((model, taken)) = self.inflight.note_page_in(batch, taken, self.now) else { return };
        if let Some(model) = self.models.get_mut(&model) {
            model.costs.observe_page_in(taken);
        }
        let Some(link) = self.fleet.link(worker) else { return };
        let mut absent = absent.to_vec();
        absent.sort_unstable();
        // One whose batch is on its way there will have brought its weights by the time another could follow.
        let coming: Vec<ModelId> =
            link.outstanding.iter().filter_map(|of| self.inflight.get(*of)).map(|of| of.model).collect();
        for (id, model) in &mut self.models {
            if !link.is_ready(*id) {
                continue;
            }
            let are_there = absent.binary_search(id).is_err() || coming.contains(id);
            if model.costs.note_weights(worker, are_there) {
                self.stirred.insert(*id);
            }
        }
    }
}
