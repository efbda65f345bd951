//! The models that are served: configured, loaded, given their tokenizers, shown to the request path.

use std::collections::BTreeSet;

use shoal_scheduler::{Epoch, Input, ModelId, WorkerId};
use tokio::time::Instant;
use tracing::{info, warn};

use super::models::{ModelReport, ModelSettings};
use super::{Driver, ToSupervisor};

impl Driver {
    pub fn configure(&mut self, now: Instant, settings: Vec<ModelSettings>) {
        self.keep_costs();
        let before: BTreeSet<ModelId> = self.models.iter().map(|(id, _)| id).collect();
        let (configs, gone) = self.models.configure(settings);
        for name in &gone {
            self.around.registry.remove(name);
        }
        self.model_metrics =
            self.models.iter().map(|(id, model)| (id, self.around.metrics.model(&model.settings.name))).collect();
        for (_, model) in self.models.iter() {
            model.publish(&self.around.registry);
        }
        for name in gone.iter().filter(|name| self.models.id(name).is_none()) {
            self.around.metrics.forget_model(name);
        }
        self.count_model_workers();
        self.offer_to_local_workers(now);
        self.asked_to_load.clear();
        self.feed(now, Input::ConfigChanged(configs), None);
        let new = self.models.iter().filter(|(id, model)| model.wanted && !before.contains(id));
        for id in new.map(|(id, _)| id).collect::<Vec<_>>() {
            self.ask_who_holds(id);
        }
    }

    /// Workers that the core had no need to tell to load a model may hold it from before: they say so when they are asked.
    fn ask_who_holds(&self, id: ModelId) {
        let Some(model) = self.models.get(id) else { return };
        for worker in self.fleet.iter().filter(|worker| worker.can_load(&model.settings.name)) {
            if !self.asked_to_load.contains(&(worker.id, id)) {
                self.load(worker.epoch, id);
            }
        }
    }

    /// A local worker reads whatever it is told to, models that came after it among them.
    fn offer_to_local_workers(&mut self, now: Instant) {
        let models: Vec<ModelId> = self.models.iter().map(|(id, _)| id).collect();
        let local = self.fleet.iter().filter(|worker| worker.local);
        for (worker, epoch) in local.map(|worker| (worker.id, worker.epoch)).collect::<Vec<_>>() {
            self.feed(now, Input::WorkerOffers { worker, epoch, models: models.clone() }, None);
        }
    }

    /// A client wants a model in memory, or out of it.
    pub(super) fn want(&mut self, now: Instant, name: &str, wanted: bool) {
        let Some(id) = self.models.id_to_call(name) else { return };
        let Some(model) = self.models.get(id) else { return };
        let failed = wanted && matches!(model.view().state, crate::registry::ModelState::Failed(_));
        if model.wanted != wanted || failed {
            if !wanted {
                self.keep_costs();
            }
            let Some(model) = self.models.get_mut(id) else { return };
            let is_new = wanted && !model.wanted;
            model.want(wanted);
            model.publish(&self.around.registry);
            self.count_model_workers();
            let configs = self.models.core_configs();
            self.asked_to_load.clear();
            self.feed(now, Input::ConfigChanged(configs), None);
            if is_new {
                self.ask_who_holds(id);
            }
        }
    }

    pub(super) fn model_report(
        &mut self,
        now: Instant,
        worker: WorkerId,
        epoch: Epoch,
        name: &str,
        report: ModelReport,
    ) {
        use shoal_scheduler::ModelState;
        let Some(id) = self.models.id(name) else {
            // It was taken out, and comes back maybe: then it matters whether the worker has it still. One that has it is
            // told to unload it.
            if let Some(model) = self.models.known(name) {
                self.feed(now, Input::ModelState { worker, epoch, model, state: report.state() }, None);
            }
            return;
        };
        let Some(report) = self.models.get(id).map(|model| model.hold_to_objective(report)) else { return };
        let state = report.state();
        match &report {
            ModelReport::Ready(card) => {
                info!(model = name, worker = worker.0, dtype = %card.dtype, bytes = card.bytes, "model ready");
            }
            ModelReport::Failed(reason) => {
                warn!(model = name, worker = worker.0, %reason, "model failed to load");
            }
            ModelReport::Loading | ModelReport::Unloaded => {}
        }
        let card = if let ModelReport::Ready(card) = &report { Some(card.clone()) } else { None };
        let stamp = self.stamp(now);
        if let Some(model) = self.models.get_mut(id) {
            model.report(stamp, worker, report);
            let wanted = model.tokenizer_wanted().map(str::to_owned);
            model.publish(&self.around.registry);
            if let Some(sha256) = wanted.filter(|_| state == ModelState::Ready) {
                self.want_tokenizer(&sha256);
            }
        }
        if state == ModelState::Ready
            && let Some(worker) = self.fleet.by_epoch(epoch).filter(|worker| worker.local)
        {
            let _ = self.around.supervisor.send(ToSupervisor::Useful(worker.name.clone()));
        }
        self.count_model_workers();
        if let (Some(card), Some(device)) = (card, self.fleet.device_of(worker).cloned()) {
            self.look_up_cost(id, &device, &card);
            // How much memory it takes is known only now.
            if self.models.get(id).is_some_and(|model| model.wanted) {
                self.make_room(now, id);
            }
        }
        self.feed(now, Input::ModelState { worker, epoch, model: id, state }, None);
    }

    pub(super) fn count_model_workers(&self) {
        for (id, model) in self.models.iter() {
            if let Some(metrics) = self.model_metrics.get(&id) {
                metrics.workers.set(i64::from(model.ready_workers()));
                metrics.wanted.set(i64::from(model.wanted && !model.is_going));
            }
        }
    }
}
