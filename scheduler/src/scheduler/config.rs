//! The set of models changes while requests are queued and running.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::Scheduler;
use crate::model::Model;
use crate::{Epoch, Failure, ModelConfig, ModelId, RequestId, WorkerId};

impl Scheduler {
    /// Makes these all the models. Queues of models left out fail; what runs of them goes on to its end.
    pub(super) fn config_changed(&mut self, configs: Vec<ModelConfig>) {
        let configs: BTreeMap<ModelId, ModelConfig> = configs.into_iter().map(|config| (config.id, config)).collect();
        let gone: Vec<ModelId> = self.models.keys().filter(|id| !configs.contains_key(id)).copied().collect();
        for id in gone {
            self.remove_model(id);
        }
        for (id, config) in configs {
            match self.models.get_mut(&id) {
                Some(model) => {
                    model.configure(config);
                    self.forgive_late(id);
                }
                None => {
                    self.models.insert(id, Model::new(config));
                    self.note_holders(id);
                }
            }
            self.stirred.insert(id);
        }
        self.fleet.retain_caps(|id| self.models.contains_key(&id));
        let connected: Vec<(WorkerId, Epoch)> = self.fleet.connected().map(|(id, epoch, _)| (id, epoch)).collect();
        for (worker, epoch) in connected {
            self.load_wanted(worker, epoch);
            self.unload_unwanted(worker);
        }
    }

    fn remove_model(&mut self, id: ModelId) {
        self.set_wake(id, None);
        self.stirred.insert(id);
        self.calibrations.remove(&id);
        let Some(model) = self.models.remove(&id) else { return };
        self.unlist(id, &model.listed, model.is_active);
        for request in model.queue.iter().map(|(item, _)| item.rank.id).collect::<Vec<RequestId>>() {
            if let Some(live) = self.requests.get(request) {
                self.admission.leave(live);
            }
            self.fail(request, Failure::ModelRemoved);
        }
    }

    fn unload_unwanted(&mut self, worker: WorkerId) {
        let Some(link) = self.fleet.link(worker) else { return };
        for model in link.ready_models().collect::<Vec<_>>() {
            self.unload_if_unwanted(worker, model);
        }
    }
}
