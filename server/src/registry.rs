//! The models as the request path sees them: a snapshot per model, replaced whole by the driver, read by everyone.
//!
//! Nothing here decides; the driver is the only writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::watch;

use crate::access::Scope;
use crate::call::CallError;
use crate::card::Card;
use crate::oip::{Short, Statistics};
use crate::tokenize::Tokenizer;

/// Bytes of a model's name.
const NAME_BYTES_MAX: usize = 64;

/// All configured models by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    models: Arc<DashMap<Arc<str>, Arc<ModelView>>>,
    /// Marked on every change.
    changes: watch::Sender<()>,
}

/// One model, as it was when last something about it changed.
#[derive(Clone, Debug)]
pub struct ModelView {
    /// The configured name.
    pub name: Arc<str>,
    /// The best state any worker has it in.
    pub state: ModelState,
    /// Present once any worker loaded it; stays when the workers go.
    pub card: Option<Arc<Card>>,
    /// Present once it was fetched, for models that have one.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Workers that hold it ready.
    pub workers: u32,
    /// The latency objective (p99).
    pub slo: Duration,
    /// The largest batch in rows.
    pub batch_rows_max: u32,
    /// It should be in memory: it was not unloaded by a client, nor for want of calls.
    pub wanted: bool,
    /// It is only loaded when it is called.
    pub on_demand: bool,
    /// The server is not ready without it.
    pub is_required: bool,
    /// It is tried on a part of another one's calls.
    pub is_canary: bool,
    /// The model that was asked for, where this one is chosen in its place.
    pub stands_in_for: Option<Arc<str>>,
    /// Rows queued at most.
    pub queue_requests_max: u32,
    /// Who takes a part of its calls.
    pub canaries: Arc<[Canary]>,
    /// How long a row may wait.
    pub queue_time_max: Duration,
    /// Calls that wait for it to be loaded.
    pub awaited: Awaited,
    /// Its counts, in the protocol's terms.
    pub statistics: Arc<Statistics>,
}

/// A model that is given a part of another one's calls, to be tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    /// Its name.
    pub model: Arc<str>,
    /// How many of a hundred.
    pub percent: f64,
}

/// Counts calls that wait for a model to be loaded. Cheap to clone; every clone counts the same.
#[derive(Clone, Debug, Default)]
pub struct Awaited(Arc<AtomicU64>);

/// One such call, for as long as it lives.
#[derive(Debug)]
pub struct Awaiting(Arc<AtomicU64>);

impl Awaited {
    /// One more, until what is returned is dropped.
    pub fn one(&self) -> Awaiting {
        self.0.fetch_add(1, Ordering::Relaxed);
        Awaiting(self.0.clone())
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a model stands, over all workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// On no worker.
    Unloaded,
    /// On its way into some worker's memory.
    Loading,
    /// At least one worker can run it, and its texts can be tokenised.
    Ready,
    /// Every worker that tried failed; the last reason.
    Failed(String),
}

impl ModelView {
    /// The version served; "1" until a card says otherwise.
    pub fn version(&self) -> &str {
        self.card.as_ref().map_or("1", |card| &card.version)
    }

    /// Whether calls for it can be made ready to run: it is known what it takes, and its texts can be tokenised.
    pub fn can_be_asked(&self) -> bool {
        let is_whole = |card: &Arc<Card>| card.tokenizer_sha256.is_empty() || self.tokenizer.is_some();
        self.card.as_ref().is_some_and(is_whole)
    }

    /// Whether it is there, and takes whatever the other one takes, and gives what that gives.
    fn can_stand_in_for(&self, other: &Self) -> bool {
        let (Some(own), Some(others)) = (&self.card, &other.card) else { return false };
        let is_same = own.task == others.task
            && (&own.tokenizer_sha256, own.vocabulary) == (&others.tokenizer_sha256, others.vocabulary)
            && (own.dims, own.normalizes) == (others.dims, others.normalizes)
            && (&own.labels, &own.inputs, &own.outputs) == (&others.labels, &others.inputs, &others.outputs);
        is_same && own.tokens_max == others.tokens_max && self.state == ModelState::Ready && self.can_be_asked()
    }

    /// Whether it may become so by itself, or by being called.
    pub fn can_be_awaited(&self) -> bool {
        (self.wanted || self.on_demand) && !matches!(self.state, ModelState::Failed(_))
    }

    /// The card, or why there is none yet.
    pub fn ready_card(&self) -> Result<&Arc<Card>, CallError> {
        let missing = || CallError::ModelNotReady {
            model: self.name.to_string(),
            reason: match &self.state {
                ModelState::Failed(reason) => reason.clone(),
                ModelState::Loading => "it is being loaded".into(),
                ModelState::Unloaded if !self.wanted && !self.on_demand => "it was unloaded".into(),
                ModelState::Unloaded | ModelState::Ready => "no worker has loaded it yet".into(),
            },
        };
        self.card.as_ref().ok_or_else(missing)
    }
}

impl Registry {
    /// Puts a model in place of what was known of it.
    pub fn publish(&self, view: ModelView) {
        self.models.insert(view.name.clone(), Arc::new(view));
        self.changes.send_replace(());
    }

    /// Forgets a model.
    pub fn remove(&self, name: &str) {
        self.models.remove(name);
        self.changes.send_replace(());
    }

    /// Tells of every change from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// The model of that name.
    ///
    /// # Errors
    /// `UnknownModel`, with the nearest name there is.
    pub fn model(&self, name: &str) -> Result<Arc<ModelView>, CallError> {
        self.seen(name, &Scope::default())
    }

    /// The model of that name, as a caller sees it: one beyond its scope is as unknown as one that is not there.
    ///
    /// # Errors
    /// `UnknownModel`, with the nearest name there is in the scope.
    pub fn seen(&self, name: &str, scope: &Scope) -> Result<Arc<ModelView>, CallError> {
        // Copied out at once: a guard of the map is never held.
        match self.models.get(name).map(|entry| entry.value().clone()) {
            Some(view) if scope.sees(name) => Ok(view),
            _ => Err(CallError::UnknownModel { model: Short(name).to_string(), near: self.nearest(name, scope) }),
        }
    }

    /// Who is to answer a call for a model: itself, or one that is tried on a part of its calls, if that can be used in its
    /// place. `drawn` is from 0 to 1, another one for each call.
    pub fn drawn(&self, model: Arc<ModelView>, drawn: f64) -> Arc<ModelView> {
        let mut left = drawn * 100.0;
        for canary in &*model.canaries {
            if left < canary.percent {
                let chosen = self.models.get(&canary.model).map(|entry| entry.value().clone());
                let Some(chosen) = chosen.filter(|canary| canary.can_stand_in_for(&model)) else { return model };
                return Arc::new(ModelView { stands_in_for: Some(model.name.clone()), ..(*chosen).clone() });
            }
            left -= canary.percent;
        }
        model
    }

    /// Every model in a caller's scope, by name.
    pub fn all_seen(&self, scope: &Scope) -> Vec<Arc<ModelView>> {
        let mut views = self.all();
        views.retain(|view| scope.sees(&view.name));
        views
    }

    /// Every model, by name.
    pub fn all(&self) -> Vec<Arc<ModelView>> {
        let mut views: Vec<_> = self.models.iter().map(|entry| entry.value().clone()).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    fn nearest(&self, name: &str, scope: &Scope) -> Option<String> {
        // It may be as long as a message; comparing it takes its length times that of every name.
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        let known = self.all_seen(scope);
        let score = |view: &Arc<ModelView>| (strsim::jaro_winkler(&view.name, name) * 1000.0) as u32;
        known.iter().max_by_key(|view| score(view)).filter(|view| score(view) > 700).map(|view| view.name.to_string())
    }
}

#[cfg(test)]
impl ModelView {
    /// One that is to be there, and of which no more is known.
    pub(crate) fn of_test(name: &str, state: ModelState) -> Self {
        Self {
            name: name.into(),
            state,
            card: None,
            tokenizer: None,
            workers: 0,
            slo: Duration::from_millis(50),
            batch_rows_max: 64,
            wanted: true,
            on_demand: false,
            is_required: true,
            is_canary: false,
            stands_in_for: None,
            queue_requests_max: 100,
            canaries: Arc::new([]),
            queue_time_max: Duration::from_secs(60),
            awaited: Awaited::default(),
            statistics: Arc::new(Statistics::new(64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        let registry = Registry::default();
        registry.publish(ModelView::of_test("minilm", ModelState::Unloaded));
        registry
    }

    #[test]
    fn the_nearest_name_is_offered() {
        let error = registry().model("minlm").expect_err("unknown");
        assert_eq!(error, CallError::UnknownModel { model: "minlm".into(), near: Some("minilm".into()) });
    }

    #[test]
    fn what_is_beyond_a_callers_scope_is_not_even_offered() {
        let identity = crate::access::Identity {
            name: "n".into(),
            tenant: None,
            rights: Default::default(),
            models: Some(["other".to_owned()].into()),
        };
        let scope = Scope::of(identity);
        for name in ["minilm", "minlm"] {
            let error = registry().seen(name, &scope).expect_err("beyond");
            assert_eq!(error, CallError::UnknownModel { model: name.into(), near: None });
        }
        assert!(registry().all_seen(&scope).is_empty() && registry().all().len() == 1);
    }

    #[test]
    fn a_name_longer_than_any_is_compared_with_none_and_shown_in_short() {
        let error = registry().model(&format!("minilm{}", "m".repeat(1 << 20))).expect_err("unknown");
        assert!(matches!(error, CallError::UnknownModel { near: None, .. }), "{error}");
        assert!(error.to_string().len() < 200, "{error}");
    }
}
