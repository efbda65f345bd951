//! Workers come, give credits, load models, and go.

use alloc::vec::Vec;

use super::Scheduler;
use crate::fleet::Holding;
use crate::{BatchId, Budget, DeviceId, DownCause, Epoch, ModelId, ModelState, Output, Slot, WorkerId};

impl Scheduler {
    /// A worker connected. One that comes back in a newer epoch was lost in the old one, whether anybody said so or not.
    pub(super) fn worker_up(&mut self, worker: WorkerId, epoch: Epoch, device: DeviceId, models: Vec<ModelId>) {
        if self.fleet.get(worker).is_some_and(|known| known.epoch >= epoch) {
            self.replies_dropped += 1;
            return;
        }
        self.take_down(worker, DownCause::Lost);
        self.fleet.connect(worker, epoch, device, models);
        self.bids.forget(worker);
        self.load_wanted(worker, epoch);
    }

    /// A worker can serve more models than it said.
    pub(super) fn worker_offers(&mut self, worker: WorkerId, epoch: Epoch, models: &[ModelId]) {
        if !self.check_epoch(worker, epoch) {
            return;
        }
        let Some(link) = self.fleet.link_mut(worker) else { return };
        for model in models {
            link.holdings.entry(*model).or_insert(Holding::Unloaded);
        }
        self.load_wanted(worker, epoch);
    }

    /// A worker is gone.
    pub(super) fn worker_down(&mut self, worker: WorkerId, epoch: Epoch, cause: DownCause) {
        if !self.check_epoch(worker, epoch) {
            return;
        }
        self.take_down(worker, cause);
    }

    /// A worker can take one more batch, or takes a credit back by granting no rows.
    pub(super) fn worker_credit(&mut self, worker: WorkerId, epoch: Epoch, slot: Slot, budget: Budget) {
        if !self.check_epoch(worker, epoch) {
            return;
        }
        if !self.fleet.grant(worker, slot, budget) {
            self.replies_dropped += 1;
        }
        self.stir_waiting();
    }

    /// A worker's model changed state.
    pub(super) fn model_state(&mut self, worker: WorkerId, epoch: Epoch, model: ModelId, state: ModelState) {
        if !self.check_epoch(worker, epoch) {
            return;
        }
        let Some(holding) = self.fleet.link_mut(worker).and_then(|link| link.holdings.get_mut(&model)) else {
            // Not a model it offered.
            self.replies_dropped += 1;
            return;
        };
        *holding = match (*holding, state) {
            // Said before it heard that the model is to go.
            (Holding::Unloading, ModelState::Loading | ModelState::Ready) => Holding::Unloading,
            (_, ModelState::Loading) => Holding::Loading,
            (_, ModelState::Ready) => Holding::Ready,
            (_, ModelState::Failed) => Holding::Failed,
            (_, ModelState::Unloaded) => Holding::Unloaded,
        };
        if state == ModelState::Ready {
            self.believe_weights(model, worker);
        }
        self.unload_if_unwanted(worker, model);
        self.regroup(worker);
        self.note_holders(model);
        self.stirred.insert(model);
    }

    /// Asks a worker to load every configured model it offers and does not have, or is about to unload. Models that
    /// failed are tried again: this is called once per epoch and on every change of the configuration.
    pub(super) fn load_wanted(&mut self, worker: WorkerId, epoch: Epoch) {
        let Some(link) = self.fleet.link(worker) else { return };
        let absent = |holding: &Holding| matches!(holding, Holding::Unloaded | Holding::Failed | Holding::Unloading);
        let wanted = link.holdings.iter().filter(|(model, holding)| absent(holding) && self.models.contains_key(model));
        for model in wanted.map(|(model, _)| *model).collect::<Vec<_>>() {
            self.load(worker, epoch, model);
        }
    }

    /// Asks a worker to drop a model that is no longer configured, once nothing of it runs there.
    pub(super) fn unload_if_unwanted(&mut self, worker: WorkerId, model: ModelId) {
        let is_of_model = |batch: &BatchId| self.inflight.get(*batch).is_some_and(|batch| batch.model == model);
        let is_idle = self.fleet.link(worker).is_some_and(|link| !link.outstanding.iter().any(is_of_model));
        if self.models.contains_key(&model) || !is_idle {
            return;
        }
        let Some(epoch) = self.fleet.get(worker).map(|worker| worker.epoch) else { return };
        let holding = self.fleet.link_mut(worker).and_then(|link| link.holdings.get_mut(&model));
        if let Some(holding) = holding.filter(|holding| **holding == Holding::Ready) {
            *holding = Holding::Unloading;
            self.regroup(worker);
            self.outputs.push_back(Output::Unload { worker, epoch, model });
        }
    }

    /// Replaces workers that hold a batch for longer than its model allows.
    pub(super) fn replace_overdue(&mut self) {
        while let Some((at, id)) = self.inflight.first_overdue()
            && at <= self.now
        {
            let Some((worker, epoch)) = self.inflight.get(id).map(|batch| (batch.worker, batch.epoch)) else { return };
            self.outputs.push_back(Output::Replace { worker, epoch, batch: id });
            self.take_down(worker, DownCause::Crashed);
        }
    }

    /// Ends a worker's epoch. The first of its batches was running; those behind it had not begun, and neither had any of
    /// a worker that left: it says goodbye when it runs nothing. Only a device is given the next one while it still computes,
    /// so when it broke, any of them may have done it.
    fn take_down(&mut self, worker: WorkerId, cause: DownCause) {
        self.list_unlisted();
        let Some(link) = self.fleet.disconnect(worker) else { return };
        for model in self.models.values_mut() {
            model.costs.forget(worker);
        }
        link.holdings.keys().for_each(|model| self.note_holders(*model));
        self.bids.forget(worker);
        self.stir_waiting();
        self.stir_for_suspects();
        let mut lost = Vec::with_capacity(link.outstanding.len());
        for id in link.outstanding {
            let Some(mut batch) = self.inflight.remove(id) else { continue };
            let unreported = self.unreported(id, &mut batch);
            self.probe_failed(id, &batch);
            lost.push((batch, unreported));
        }
        let is_one = lost.iter().filter(|(batch, _)| batch.begun).count() == 1;
        for (position, (batch, unreported)) in lost.into_iter().enumerate() {
            match cause {
                DownCause::Left => self.requeue(&batch, &unreported),
                _ if !batch.begun => self.requeue(&batch, &unreported),
                DownCause::DeviceBroke if is_one => self.suspect_break(&batch, link.device, &unreported),
                DownCause::DeviceBroke => self.lose_apart(&unreported),
                _ if position > 0 => self.requeue(&batch, &unreported),
                DownCause::Crashed => self.suspect_crash(&batch, &unreported),
                DownCause::Lost => self.lose(&batch, &unreported),
            }
        }
    }

    fn load(&mut self, worker: WorkerId, epoch: Epoch, model: ModelId) {
        if let Some(holding) = self.fleet.link_mut(worker).and_then(|link| link.holdings.get_mut(&model)) {
            *holding = Holding::Loading;
            self.regroup(worker);
            self.note_holders(model);
            self.outputs.push_back(Output::Load { worker, epoch, model });
        }
    }

    /// Whether the worker speaks in its present life; counts it when not.
    pub(super) fn check_epoch(&mut self, worker: WorkerId, epoch: Epoch) -> bool {
        let is_current = self.fleet.is_connected(worker, epoch);
        self.replies_dropped += u64::from(!is_current);
        is_current
    }
}
