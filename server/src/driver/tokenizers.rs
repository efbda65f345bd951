//! Tokenizers on their way: from disk, or from a worker that holds a model which needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use shoal_scheduler::Epoch;
use tracing::{debug, warn};

use super::Driver;
use super::event::ToWorker;
use super::models::ModelReport;
use crate::tokenize::{Tokenizer, Vocabulary};

/// An errand about a tokenizer, for whoever owns the disk; answered with [`Event::Tokenizer`](super::Event::Tokenizer).
#[derive(Debug)]
pub enum ArtifactWanted {
    /// Find it on disk.
    Read { sha256: String },
    /// Keep this one.
    Keep { sha256: String, data: Bytes },
}

impl ArtifactWanted {
    /// Which tokenizer it is about.
    pub fn sha256(&self) -> &str {
        match self {
            Self::Read { sha256 } | Self::Keep { sha256, .. } => sha256,
        }
    }
}

/// Why an errand brought no tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArtifactError {
    /// It is not here, or what is here is something else: somebody else may have it.
    Missing(String),
    /// It is what was asked for, and cannot be used.
    Unusable(String),
}

/// Every tokenizer on its way, by hash.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    open: BTreeMap<String, Fetch>,
}

/// Where one tokenizer is looked for.
#[derive(Debug, Default)]
struct Fetch {
    /// The worker asked; the disk before any.
    asked: Option<Epoch>,
    tried: BTreeSet<Epoch>,
}

impl Driver {
    /// Starts looking for a tokenizer, unless that is under way.
    pub(super) fn want_tokenizer(&mut self, sha256: &str) {
        if !self.fetches.open.contains_key(sha256) {
            self.fetches.open.insert(sha256.to_owned(), Fetch::default());
            let _ = self.around.artifacts.send(ArtifactWanted::Read { sha256: sha256.to_owned() });
        }
    }

    /// An errand is done.
    pub(super) fn tokenizer_read(&mut self, sha256: &str, result: Result<Vocabulary, ArtifactError>) {
        match result {
            Ok(vocabulary) => self.tokenizer_found(sha256, &vocabulary),
            Err(ArtifactError::Missing(why)) => self.ask_next(sha256, &why),
            Err(ArtifactError::Unusable(why)) => self.tokenizer_lost(sha256, &why),
        }
    }

    /// A worker answered. Only the one that was asked is listened to.
    pub(super) fn artifact(&mut self, epoch: Epoch, sha256: String, result: Result<Bytes, String>) {
        if self.fetches.open.get(&sha256).and_then(|fetch| fetch.asked) != Some(epoch) {
            return warn!(%sha256, "a worker sent a tokenizer it was not asked for");
        }
        match result {
            Ok(data) => {
                let _ = self.around.artifacts.send(ArtifactWanted::Keep { sha256, data });
            }
            Err(why) => self.ask_next(&sha256, &why),
        }
    }

    /// A worker is gone: what it was asked for is asked of another.
    pub(super) fn fetch_elsewhere(&mut self, epoch: Epoch) {
        let asked = self.fetches.open.iter().filter(|(_, fetch)| fetch.asked == Some(epoch));
        let hashes: Vec<String> = asked.map(|(sha256, _)| sha256.clone()).collect();
        for sha256 in hashes {
            self.ask_next(&sha256, "its worker is gone");
        }
    }

    fn ask_next(&mut self, sha256: &str, why: &str) {
        let Some(fetch) = self.fetches.open.get_mut(sha256) else { return };
        fetch.tried.extend(fetch.asked.take());
        let wanting =
            self.models.iter().map(|(_, model)| model).filter(|model| model.tokenizer_wanted() == Some(sha256));
        let holders: BTreeSet<_> = wanting
            .flat_map(|model| model.workers.iter())
            .filter(|(_, report)| matches!(report, ModelReport::Ready(_)))
            .map(|(worker, _)| *worker)
            .collect();
        let next =
            self.fleet.iter().find(|worker| holders.contains(&worker.id) && !fetch.tried.contains(&worker.epoch));
        match next {
            Some(worker) => {
                debug!(sha256, why, worker = %worker.name, "asking a worker for the tokenizer");
                fetch.asked = Some(worker.epoch);
                worker.send(ToWorker::FetchArtifact { sha256: sha256.to_owned() });
            }
            None => self.tokenizer_lost(sha256, why),
        }
    }

    fn tokenizer_found(&mut self, sha256: &str, vocabulary: &Vocabulary) {
        self.fetches.open.remove(sha256);
        for model in self.models.iter_mut().filter(|model| model.tokenizer_wanted() == Some(sha256)) {
            let (tokens_max, ids) = model.card.as_ref().map_or((0, 0), |card| (card.tokens_max, card.vocabulary));
            match vocabulary.check(ids) {
                Ok(()) => {
                    model.tokenizer = Some(Arc::new(Tokenizer::new(vocabulary.clone(), tokens_max)));
                    model.tokenizer_error = None;
                }
                Err(why) => model.tokenizer_error = Some(why),
            }
            model.publish(&self.around.registry);
        }
    }

    /// Nobody has it. The next worker that holds such a model starts the search anew.
    fn tokenizer_lost(&mut self, sha256: &str, why: &str) {
        self.fetches.open.remove(sha256);
        for model in self.models.iter_mut().filter(|model| model.tokenizer_wanted() == Some(sha256)) {
            if model.ready_workers() > 0 {
                warn!(model = %model.settings.name, sha256, why, "no tokenizer");
                model.tokenizer_error = Some(why.to_owned());
                model.publish(&self.around.registry);
            }
        }
    }
}
