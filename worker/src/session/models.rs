//! Which models are in memory, on their way there, or known by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::backend::PrepareRequest;
use crate::batch::ServerId;
use crate::card::ModelCard;
use crate::source::{ModelSource, Precision};

/// Models in memory or on their way there at most.
const MODELS_MAX: usize = 256;

/// The models of one worker, across reconnects, and which servers want each.
///
/// What a server wants ends with its connection, and what is in memory for it does not: it is back in a moment, or another is
/// in its place, and reading a model takes long. A model leaves memory when a server asks for that and no other that is
/// attached wants it.
#[derive(Debug)]
pub(crate) struct Models {
    /// The worker's own sources.
    offers: BTreeMap<String, ModelSource>,
    entries: BTreeMap<Arc<str>, Entry>,
    wanted_by: BTreeMap<Arc<str>, BTreeSet<ServerId>>,
    /// Of them those whose weights are not on the device.
    without_weights: Vec<Arc<str>>,
}

#[derive(Debug)]
enum Entry {
    Loading { request: PrepareRequest, unload: bool },
    Ready { request: PrepareRequest, card: Arc<ModelCard> },
    Unloading,
}

/// What a model is to the server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ModelStatus {
    Loading { progress: f32 },
    Ready(Arc<ModelCard>),
    Failed { reason: String },
    Unloaded,
}

/// What follows from the word that a model is no longer wanted.
#[derive(Debug, PartialEq)]
pub(crate) enum UnloadStep {
    /// Take it out of memory.
    Evict,
    /// Nothing to do but to say so: it is not there, or stays for others.
    Tell,
    /// Its eviction is under way, or waits for it to be read.
    Wait,
}

/// What follows from the request to load a model.
#[derive(Debug, PartialEq)]
pub(crate) enum LoadStep {
    /// Read it.
    Start(PrepareRequest),
    /// Nothing to do but to say this.
    Tell(ModelStatus),
}

impl Models {
    pub(crate) fn new(offers: BTreeMap<String, ModelSource>) -> Self {
        Self { offers, entries: BTreeMap::new(), wanted_by: BTreeMap::new(), without_weights: Vec::new() }
    }

    /// A server wants a model; from the worker's own source of that name if none is given.
    pub(crate) fn load(
        &mut self,
        server: ServerId,
        name: &Arc<str>,
        source: Option<ModelSource>,
        precision: Precision,
    ) -> LoadStep {
        let step = self.load_if_absent(name, source, precision);
        if !matches!(step, LoadStep::Tell(ModelStatus::Failed { .. })) {
            self.wanted_by.entry(name.clone()).or_default().insert(server);
        }
        step
    }

    fn load_if_absent(&mut self, name: &Arc<str>, source: Option<ModelSource>, precision: Precision) -> LoadStep {
        let Some(source) = source.or_else(|| self.offers.get(&**name).cloned()) else {
            return LoadStep::Tell(ModelStatus::Failed { reason: self.no_source(name) });
        };
        let wanted = PrepareRequest { name: name.clone(), source, precision };
        let is_full = self.entries.len() >= MODELS_MAX;
        match self.entries.get_mut(name) {
            Some(Entry::Loading { request, unload }) if *request == wanted => {
                *unload = false;
                LoadStep::Tell(ModelStatus::Loading { progress: 0.0 })
            }
            Some(Entry::Ready { request, card }) if *request == wanted => {
                LoadStep::Tell(ModelStatus::Ready(card.clone()))
            }
            Some(Entry::Loading { .. } | Entry::Ready { .. }) => {
                let reason = format!("`{name}` is held from another source or in another dtype: unload it first");
                LoadStep::Tell(ModelStatus::Failed { reason })
            }
            None if is_full => {
                let reason = format!("this worker already holds {MODELS_MAX} models");
                LoadStep::Tell(ModelStatus::Failed { reason })
            }
            // An eviction under way is before the new model in the executor's queue.
            None | Some(Entry::Unloading) => {
                self.entries.insert(name.clone(), Entry::Loading { request: wanted.clone(), unload: false });
                LoadStep::Start(wanted)
            }
        }
    }

    /// A server wants a model no longer.
    pub(crate) fn unload(&mut self, server: ServerId, name: &Arc<str>) -> UnloadStep {
        if let Some(servers) = self.wanted_by.get_mut(name) {
            servers.remove(&server);
            if !servers.is_empty() {
                return UnloadStep::Tell;
            }
            self.wanted_by.remove(name);
        }
        match self.entries.get_mut(name) {
            Some(Entry::Loading { unload, .. }) => {
                *unload = true;
                UnloadStep::Wait
            }
            Some(entry @ Entry::Ready { .. }) => {
                *entry = Entry::Unloading;
                UnloadStep::Evict
            }
            Some(Entry::Unloading) => UnloadStep::Wait,
            None => UnloadStep::Tell,
        }
    }

    /// A server is gone, with all that it wanted.
    pub(crate) fn leave(&mut self, server: ServerId) {
        self.wanted_by.retain(|_, servers| {
            servers.remove(&server);
            !servers.is_empty()
        });
    }

    /// Whether a server asked for a model and did not take that back.
    pub(crate) fn is_wanted(&self, server: ServerId, name: &str) -> bool {
        self.wanted_by.get(name).is_some_and(|servers| servers.contains(&server))
    }

    /// A model is in memory. True if it was unloaded meanwhile and is to be evicted.
    pub(crate) fn ready(&mut self, name: &Arc<str>, card: Arc<ModelCard>) -> bool {
        let Some(entry) = self.entries.get_mut(name) else { return true };
        match entry {
            Entry::Loading { request, unload: false } => {
                *entry = Entry::Ready { request: request.clone(), card };
                false
            }
            _ => {
                *entry = Entry::Unloading;
                true
            }
        }
    }

    /// A model could not be read.
    pub(crate) fn failed(&mut self, name: &str) {
        self.entries.remove(name);
        self.wanted_by.remove(name);
    }

    /// A model left memory. It may be wanted again, and on its way back.
    pub(crate) fn evicted(&mut self, name: &str) {
        if matches!(self.entries.get(name), Some(Entry::Unloading)) {
            self.entries.remove(name);
        }
    }

    /// Weights came onto the device or went: those of these models are not there now.
    pub(crate) fn set_without_weights(&mut self, absent: Vec<Arc<str>>) {
        self.without_weights = absent;
    }

    /// Models whose weights are not on the device.
    pub(crate) fn without_weights(&self) -> &[Arc<str>] {
        &self.without_weights
    }

    /// The card of a model in memory.
    pub(crate) fn card(&self, name: &str) -> Option<(&Arc<str>, &Arc<ModelCard>)> {
        match self.entries.get_key_value(name) {
            Some((name, Entry::Ready { card, .. })) => Some((name, card)),
            _ => None,
        }
    }

    /// Every model with a source of its own or in memory; with its card in the latter case.
    pub(crate) fn offers(&self) -> BTreeMap<&str, Option<&Arc<ModelCard>>> {
        let mut offers: BTreeMap<&str, Option<&Arc<ModelCard>>> =
            self.offers.keys().map(|name| (name.as_str(), None)).collect();
        for (name, entry) in &self.entries {
            if let Entry::Ready { card, .. } = entry {
                offers.insert(name, Some(card));
            }
        }
        offers
    }

    /// The source of each model in memory.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&ModelSource, &ModelCard)> {
        self.entries.values().filter_map(|entry| match entry {
            Entry::Ready { request, card } => Some((&request.source, &**card)),
            _ => None,
        })
    }

    /// The models being read.
    pub(crate) fn loading(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.iter().filter(|(_, entry)| matches!(entry, Entry::Loading { .. })).map(|(name, _)| name)
    }

    fn no_source(&self, name: &str) -> String {
        if self.offers.is_empty() {
            return format!("no source was given for `{name}`, and this worker has none of its own");
        }
        let known: Vec<&str> = self.offers.keys().map(String::as_str).collect();
        format!("this worker has no source for `{name}`, only for {}", known.join(", "))
    }
}
