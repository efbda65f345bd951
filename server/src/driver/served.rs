//! The models that are served: configured, loaded, given their tokenizers, shown to the request path.

use std::sync::Arc;

use bytes::Bytes;
use shoal_scheduler::{Epoch, Input, WorkerId};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::event::ToWorker;
use super::models::{Model, ModelReport, ModelSettings};
use super::{ArtifactWanted, Driver};
use crate::tokenize::Tokenizer;

impl Driver {
    pub(super) fn configure(&mut self, now: Instant, settings: Vec<ModelSettings>) {
        let (configs, gone) = self.models.configure(settings);
        for name in gone {
            self.around.registry.remove(&name);
        }
        self.model_metrics =
            self.models.iter().map(|(id, model)| (id, self.around.metrics.model(&model.settings.name))).collect();
        for (_, model) in self.models.iter() {
            self.around.registry.publish(model.view());
        }
        self.feed(now, Input::ConfigChanged(configs), None);
    }

    /// A client wants a model in memory, or out of it.
    pub(super) fn want(&mut self, now: Instant, name: &str, wanted: bool) {
        let Some(model) = self.models.id(name).and_then(|id| self.models.get_mut(id)) else { return };
        if model.wanted != wanted {
            model.wanted = wanted;
            self.around.registry.publish(model.view());
            let configs = self.models.core_configs();
            self.feed(now, Input::ConfigChanged(configs), None);
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
        let Some(id) = self.models.id(name) else { return };
        let state = match &report {
            ModelReport::Loading => ModelState::Loading,
            ModelReport::Ready(card) => {
                info!(model = name, worker = worker.0, dtype = %card.dtype, bytes = card.bytes, "model ready");
                ModelState::Ready
            }
            ModelReport::Failed(reason) => {
                warn!(model = name, worker = worker.0, %reason, "model failed to load");
                ModelState::Failed
            }
            ModelReport::Unloaded => ModelState::Unloaded,
        };
        if let Some(model) = self.models.get_mut(id) {
            model.report(worker, report);
            if let Some(sha256) = model.tokenizer_wanted() {
                let _ = self.around.artifacts.send(ArtifactWanted::Read { sha256: sha256.to_owned() });
            }
            self.around.registry.publish(model.view());
        }
        self.count_model_workers();
        self.feed(now, Input::ModelState { worker, epoch, model: id, state }, None);
    }

    pub(super) fn count_model_workers(&self) {
        for (id, model) in self.models.iter() {
            if let Some(metrics) = self.model_metrics.get(&id) {
                metrics.workers.set(i64::from(model.view().workers));
            }
        }
    }

    /// The disk has the tokenizer, or a worker has to be asked for it.
    pub(super) fn tokenizer_read(&mut self, sha256: &str, result: Result<Bytes, String>) {
        let json = match result {
            Ok(json) => json,
            Err(missing) => {
                debug!(sha256, %missing, "asking a worker for the tokenizer");
                return self.fetch_tokenizer(sha256);
            }
        };
        for model in self.models.iter_mut() {
            if model.tokenizer_wanted() != Some(sha256) {
                continue;
            }
            let tokens_max = model.card.as_ref().map_or(0, |card| card.tokens_max);
            match Tokenizer::parse(&json, tokens_max) {
                Ok(tokenizer) => model.tokenizer = Some(Arc::new(tokenizer)),
                Err(problem) => model.tokenizer_error = Some(problem),
            }
            self.around.registry.publish(model.view());
        }
    }

    pub(super) fn fetch_tokenizer(&self, sha256: &str) {
        let wants = |model: &&Model| model.tokenizer_wanted() == Some(sha256);
        let holders = self.models.iter().map(|(_, model)| model).filter(wants).flat_map(|model| model.workers.keys());
        for holder in holders {
            if let Some(worker) = self.fleet.iter().find(|worker| worker.id == *holder) {
                return worker.send(ToWorker::FetchArtifact { sha256: sha256.to_owned() });
            }
        }
    }

    pub(super) fn artifact(&mut self, sha256: String, result: Result<Bytes, String>) {
        match result {
            Ok(data) => {
                let _ = self.around.artifacts.send(ArtifactWanted::Keep { sha256, data });
            }
            Err(problem) => {
                warn!(%sha256, %problem, "a worker could not give its tokenizer");
                for model in self.models.iter_mut().filter(|model| model.tokenizer_wanted().is_some()) {
                    model.tokenizer_error = Some(problem.clone());
                    self.around.registry.publish(model.view());
                }
            }
        }
    }
}
