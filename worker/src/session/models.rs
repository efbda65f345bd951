//! Which models are in memory, on their way there, or known by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::PrepareRequest;
use crate::batch::ServerId;
use crate::card::ModelCard;
use crate::source::{ModelSource, Precision};

#[cfg(test)]
mod tests;

/// Models in memory or on their way there at most.
const MODELS_MAX: usize = 256;
/// For how long a lost server is expected back. One that is there is dialled within the 5 s that the longest rest takes,
/// and has 15 s to answer and to let this worker in; what is left is for a server that is started anew.
pub(super) const LOST_MAX: Duration = Duration::from_secs(30);

/// The models of one worker, across reconnects, and which servers want each.
///
/// What a server wants outlives its connection for [`LOST_MAX`]: it is back in a moment, or another is in its place, and
/// reading a model takes long. A model leaves memory when a server asks for that and no other wants it, or later when the
/// last that was expected back does not come.
#[derive(Debug)]
pub(crate) struct Models {
    /// The worker's own sources.
    offers: BTreeMap<String, ModelSource>,
    entries: BTreeMap<Arc<str>, Entry>,
    wants: BTreeMap<Arc<str>, Wants>,
    /// Of them those whose weights are not on the device.
    without_weights: Vec<Arc<str>>,
}

/// Which servers want a model.
#[derive(Debug, Default)]
struct Wants {
    attached: BTreeSet<ServerId>,
    /// Servers that wanted it when they were lost, and until when they are expected back.
    lost: BTreeMap<ServerId, Instant>,
    /// A server asked that it leave memory, and only lost ones keep it there.
    is_unloaded: bool,
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
    /// Evict what is there, and hand this to the executor.
    Replace(PrepareRequest),
    /// Nothing to do but to say this.
    Tell(ModelStatus),
}

impl Models {
    pub(crate) fn new(offers: BTreeMap<String, ModelSource>) -> Self {
        Self { offers, entries: BTreeMap::new(), wants: BTreeMap::new(), without_weights: Vec::new() }
    }

    /// A server wants a model; from the worker's own source of that name if none is given.
    pub(crate) fn load(
        &mut self,
        server: ServerId,
        name: &Arc<str>,
        source: Option<ModelSource>,
        precision: Precision,
    ) -> LoadStep {
        let step = self.load_if_absent(server, name, source, precision);
        if !matches!(step, LoadStep::Tell(ModelStatus::Failed { .. })) {
            let wants = self.wants.entry(name.clone()).or_default();
            wants.lost.remove(&server);
            wants.attached.insert(server);
            wants.is_unloaded = false;
        }
        step
    }

    fn load_if_absent(
        &mut self,
        server: ServerId,
        name: &Arc<str>,
        source: Option<ModelSource>,
        precision: Precision,
    ) -> LoadStep {
        let Some(source) = source.or_else(|| self.offers.get(&**name).cloned()) else {
            return LoadStep::Tell(ModelStatus::Failed { reason: self.no_source(name) });
        };
        let wanted = PrepareRequest { name: name.clone(), source, precision };
        let is_full = self.entries.len() >= MODELS_MAX;
        let is_others = self.wants.get(name).is_some_and(|wants| wants.has_other_than(server));
        match self.entries.get_mut(name) {
            Some(Entry::Loading { request, unload }) if *request == wanted => {
                *unload = false;
                LoadStep::Tell(ModelStatus::Loading { progress: 0.0 })
            }
            Some(Entry::Ready { request, card }) if *request == wanted => {
                LoadStep::Tell(ModelStatus::Ready(card.clone()))
            }
            // It was started anew with other settings. As below, one goes before the other comes.
            Some(entry @ Entry::Ready { .. }) if !is_others => {
                *entry = Entry::Loading { request: wanted.clone(), unload: false };
                LoadStep::Replace(wanted)
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
        if let Some(wants) = self.wants.get_mut(name) {
            wants.remove(server);
            if !wants.is_empty() {
                wants.is_unloaded = wants.attached.is_empty();
                return UnloadStep::Tell;
            }
            self.wants.remove(name);
        }
        self.take_out(name)
    }

    fn take_out(&mut self, name: &str) -> UnloadStep {
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

    /// A server was lost, and is expected back.
    pub(crate) fn leave(&mut self, now: Instant, server: ServerId) {
        for wants in self.wants.values_mut() {
            if wants.attached.remove(&server) {
                wants.lost.insert(server, now + LOST_MAX);
            }
        }
    }

    /// A server is gone for good, with all that it wanted. Returns the models that are to be evicted.
    pub(crate) fn forget(&mut self, server: ServerId) -> Vec<Arc<str>> {
        self.wants.values_mut().for_each(|wants| wants.remove(server));
        self.drop_unwanted()
    }

    /// Time passed: whoever is not back by now is expected no more. Returns the models that are to be evicted.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Arc<str>> {
        self.wants.values_mut().for_each(|wants| wants.lost.retain(|_, until| *until > now));
        self.drop_unwanted()
    }

    /// When to come back with [`expire`](Self::expire).
    pub(crate) fn timeout(&self) -> Option<Instant> {
        self.wants.values().flat_map(|wants| wants.lost.values().copied()).min()
    }

    fn drop_unwanted(&mut self) -> Vec<Arc<str>> {
        let mut unloaded = Vec::new();
        self.wants.retain(|name, wants| {
            if wants.is_empty() && wants.is_unloaded {
                unloaded.push(name.clone());
            }
            !wants.is_empty()
        });
        unloaded.retain(|name| self.take_out(name) == UnloadStep::Evict);
        unloaded
    }

    /// Whether an attached server asked for a model and did not take that back.
    pub(crate) fn is_wanted(&self, server: ServerId, name: &str) -> bool {
        self.wants.get(name).is_some_and(|wants| wants.attached.contains(&server))
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
        self.wants.remove(name);
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

impl Wants {
    fn has_other_than(&self, server: ServerId) -> bool {
        self.attached.iter().chain(self.lost.keys()).any(|other| *other != server)
    }

    fn remove(&mut self, server: ServerId) {
        self.attached.remove(&server);
        self.lost.remove(&server);
    }

    fn is_empty(&self) -> bool {
        self.attached.is_empty() && self.lost.is_empty()
    }
}
