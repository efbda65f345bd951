//! All models: by name, by the core's id, and as the core is to know them.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_scheduler::{ModelConfig, ModelId};

use super::{CanaryOf, Model, ModelSettings};
use crate::registry::Canary;

/// Every configured model, by the core's id.
#[derive(Debug, Default)]
pub(in crate::driver) struct Models {
    by_id: BTreeMap<ModelId, Model>,
    ids: BTreeMap<Arc<str>, ModelId>,
    next: u32,
}

impl Models {
    /// Makes `all` the configured models, and returns them as the core wants them, and the names that are gone.
    /// A model that stays keeps its card and its workers' reports; one that has calls goes when they are answered.
    pub(in crate::driver) fn configure(&mut self, all: Vec<ModelSettings>) -> (Vec<ModelConfig>, Vec<Arc<str>>) {
        let are_first = self.by_id.is_empty();
        let mut before = std::mem::take(&mut self.by_id);
        for settings in all {
            let id = self.intern(&settings.name);
            let model = match before.remove(&id) {
                Some(model) => model.with(settings),
                None => Model::new(settings, are_first),
            };
            self.by_id.insert(id, model);
        }
        let gone = before.values().map(|model| model.settings.name.clone()).collect();
        for (id, model) in before {
            if model.open_calls > 0 {
                self.by_id.insert(id, Model { is_going: true, ..model });
            }
        }
        self.find_canaries();
        (self.core_configs(), gone)
    }

    /// Forgets a model that was taken out, once nobody waits for it.
    pub(in crate::driver) fn remove_if_gone(&mut self, id: ModelId) -> bool {
        let is_gone = self.by_id.get(&id).is_some_and(|model| model.is_going && model.open_calls == 0);
        if is_gone {
            self.by_id.remove(&id);
        }
        is_gone
    }

    /// Tells each model who takes a part of its calls.
    fn find_canaries(&mut self) {
        let mut found: BTreeMap<Arc<str>, Vec<Canary>> = BTreeMap::new();
        for model in self.by_id.values().filter(|model| !model.is_going) {
            if let Some(CanaryOf { model: of, percent }) = &model.settings.canary {
                let canary = Canary { model: model.settings.name.clone(), percent: *percent };
                found.entry(of.clone()).or_default().push(canary);
            }
        }
        for model in self.by_id.values_mut() {
            model.canaries = found.remove(&model.settings.name).unwrap_or_default().into();
        }
    }

    /// The models the core is to know: those that should be in memory.
    pub(in crate::driver) fn core_configs(&self) -> Vec<ModelConfig> {
        let wanted = self.by_id.iter().filter(|(_, model)| model.wanted && !model.is_given_up());
        wanted.map(|(&id, model)| core_config(id, &model.settings)).collect()
    }

    /// The id of a configured model.
    pub(in crate::driver) fn id(&self, name: &str) -> Option<ModelId> {
        let id = *self.ids.get(name)?;
        self.by_id.contains_key(&id).then_some(id)
    }

    /// The id of a configured model that takes calls.
    pub(in crate::driver) fn id_to_call(&self, name: &str) -> Option<ModelId> {
        self.id(name).filter(|id| self.by_id.get(id).is_some_and(|model| !model.is_going))
    }

    /// The id of a model that is configured, was, or may be: one that a worker can serve.
    pub(in crate::driver) fn id_for_worker(&mut self, name: &Arc<str>) -> ModelId {
        self.intern(name)
    }

    /// The id of a model that is configured, or was.
    pub(in crate::driver) fn known(&self, name: &str) -> Option<ModelId> {
        self.ids.get(name).copied()
    }

    /// What a model is or was called.
    pub(in crate::driver) fn name(&self, id: ModelId) -> Option<&Arc<str>> {
        self.ids.iter().find(|(_, known)| **known == id).map(|(name, _)| name)
    }

    pub(in crate::driver) fn get_mut(&mut self, id: ModelId) -> Option<&mut Model> {
        self.by_id.get_mut(&id)
    }

    pub(in crate::driver) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Model> {
        self.by_id.values_mut()
    }

    pub(in crate::driver) fn get(&self, id: ModelId) -> Option<&Model> {
        self.by_id.get(&id)
    }

    pub(in crate::driver) fn iter(&self) -> impl Iterator<Item = (ModelId, &Model)> {
        self.by_id.iter().map(|(&id, model)| (id, model))
    }

    /// Names keep their id for the life of the server, so that a model taken out and put back is the same to the core.
    fn intern(&mut self, name: &Arc<str>) -> ModelId {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        let id = ModelId(self.next);
        self.next += 1;
        self.ids.insert(name.clone(), id);
        id
    }
}

fn core_config(id: ModelId, settings: &ModelSettings) -> ModelConfig {
    ModelConfig {
        id,
        objective: settings.slo,
        queue_requests_max: settings.queue_requests_max,
        queue_time_max: settings.queue_time_max,
        batch_time_max: settings.batch_time_max,
        batch_rows_max: settings.batch_rows_max,
        batch_tokens_max: settings.batch_tokens_max,
        policy: settings.policy.clone(),
        cost: None,
    }
}
