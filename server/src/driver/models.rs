//! The driver's own account of each model: settings, card, tokenizer, and which worker has it in which state.

mod all;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use shoal_scheduler::{PolicyConfig, Timestamp, WorkerId};
use tracing::warn;

use crate::card::Card;
use crate::models::Place;
use crate::oip::Statistics;
use crate::registry::{Awaited, Canary, ModelState, ModelView, Registry};
use crate::tokenize::Tokenizer;

use super::quarantine::Quarantine;
use super::recent::Recent;

pub(super) use all::Models;

/// Workers in a row that one model may take with it while they load it.
const DEATHS_MAX: u32 = 3;
/// How long after a failure a model on demand may be tried again; twice as long after each more, 32 times at most.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// A model as configured.
#[derive(Clone, Debug)]
pub struct ModelSettings {
    /// What clients call it.
    pub name: Arc<str>,
    /// Where local workers read it; external workers have sources of their own.
    pub place: Option<Place>,
    /// What to compute in: `auto`, `f32`, `f16`, `bf16`, `int8` or `int8-mixed`.
    pub dtype: Arc<str>,
    /// The latency objective.
    pub slo: Duration,
    /// Somebody asked for it: it is no default.
    pub is_slo_stated: bool,
    /// How long a request may wait.
    pub queue_time_max: Duration,
    /// Requests queued at most.
    pub queue_requests_max: NonZeroU32,
    /// How long one batch may run.
    pub batch_time_max: Duration,
    /// The largest batch in rows.
    pub batch_rows_max: NonZeroU32,
    /// The largest batch in tokens.
    pub batch_tokens_max: NonZeroU32,
    /// When batches are closed.
    pub policy: PolicyConfig,
    /// When it is loaded.
    pub load: Load,
    /// Whose calls it is given a part of, to be tried.
    pub canary: Option<CanaryOf>,
}

/// A model that is tried on a part of another one's calls.
#[derive(Clone, Debug, PartialEq)]
pub struct CanaryOf {
    /// The other one.
    pub model: Arc<str>,
    /// How many of a hundred calls.
    pub percent: f64,
}

/// When a model is loaded, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// From the start, for good.
    #[default]
    AtStart,
    /// When it is called, until nobody called it for so long, or others need its room.
    OnDemand { unload_after: Duration },
}

/// How a model stands on a worker.
#[derive(Debug)]
pub enum ModelReport {
    Loading,
    Ready(Arc<Card>),
    Failed(String),
    Unloaded,
}

impl ModelReport {
    /// As the core has it.
    pub(super) fn state(&self) -> shoal_scheduler::ModelState {
        use shoal_scheduler::ModelState;
        match self {
            Self::Loading => ModelState::Loading,
            Self::Ready(_) => ModelState::Ready,
            Self::Failed(_) => ModelState::Failed,
            Self::Unloaded => ModelState::Unloaded,
        }
    }
}

/// One model and all that is known of it.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) settings: ModelSettings,
    pub(super) card: Option<Arc<Card>>,
    pub(super) tokenizer: Option<Arc<Tokenizer>>,
    /// It should be in memory.
    pub(super) wanted: bool,
    /// The server is not ready without it. One that came while others were served has to show first that it can be.
    is_required: bool,
    /// It is taken out, and stays until the calls that it has are answered.
    pub(super) is_going: bool,
    /// Who takes a part of its calls.
    canaries: Arc<[Canary]>,
    pub(super) statistics: Arc<Statistics>,
    /// Why batches were closed and calls refused of late.
    pub(super) recent: Recent,
    /// Inputs that are refused for what they did.
    pub(super) quarantine: Quarantine,
    /// Somebody is looking up what it costs.
    pub(super) is_cost_looked_up: bool,
    /// Probes have found out what it costs, or could not: they are not tried again.
    pub(super) is_calibrated: bool,
    /// Why the tokenizer could not be had.
    pub(super) tokenizer_error: Option<String>,
    /// Calls without an answer.
    pub(super) open_calls: u64,
    /// Since when it cannot be loaded, and how often that was so in a row.
    failed_at: Option<Timestamp>,
    failures: u32,
    /// Workers in a row that were lost while they loaded it.
    deaths: u32,
    /// When the last call for it came.
    pub(super) last_call: Option<Timestamp>,
    /// Calls that wait for it to be loaded.
    awaited: Awaited,
    /// The last report of each connected worker.
    pub(super) workers: BTreeMap<WorkerId, ModelReport>,
    /// The reason of the last failure, kept when the worker goes.
    last_failure: Option<String>,
}

impl Model {
    fn new(settings: ModelSettings, is_required: bool) -> Self {
        let statistics = Arc::new(Statistics::new(settings.batch_rows_max.get()));
        Self {
            wanted: settings.load == Load::AtStart,
            is_required,
            is_going: false,
            canaries: Arc::new([]),
            settings,
            statistics,
            recent: Recent::default(),
            quarantine: Quarantine::default(),
            is_cost_looked_up: false,
            is_calibrated: false,
            card: None,
            tokenizer: None,
            tokenizer_error: None,
            open_calls: 0,
            failed_at: None,
            failures: 0,
            deaths: 0,
            last_call: None,
            awaited: Awaited::default(),
            workers: BTreeMap::new(),
            last_failure: None,
        }
    }

    /// The same model with other settings. One that is to be there from now on is loaded, whatever it was before.
    fn with(self, settings: ModelSettings) -> Self {
        let is_new = self.settings.load != settings.load && settings.load == Load::AtStart;
        let mut model = Self { wanted: self.wanted || is_new, is_going: false, settings, ..self };
        if is_new {
            // The server was ready without it.
            model.is_required = model.ready_workers() > 0;
        }
        if model.is_given_up() {
            model.forget_failures();
        }
        model
    }

    /// What is made of a worker's word: a model that cannot keep its objective even for one row cannot be served as it
    /// is configured. One that was served before is served on: what shows then is how busy the machine is, not what it
    /// is. So is one whose objective nobody stated.
    pub(super) fn hold_to_objective(&self, report: ModelReport) -> ModelReport {
        let (ModelReport::Ready(card), PolicyConfig::Learned { .. }) = (&report, &self.settings.policy) else {
            return report;
        };
        let (slo, one) = (self.settings.slo, card.smallest_batch);
        if one <= slo {
            return report;
        }
        let problem = format!(
            "its slo of {slo:?} cannot be kept: the smallest batch takes {one:.1?} by itself on this worker; \
             ask for slo = \"{}\" or more",
            a_little_more(one)
        );
        if !self.settings.is_slo_stated || self.card.is_some() {
            warn!("{}: {problem}", self.settings.name);
            return report;
        }
        ModelReport::Failed(problem)
    }

    /// Takes a worker's word on this model.
    pub(super) fn report(&mut self, now: Timestamp, worker: WorkerId, report: ModelReport) {
        match &report {
            ModelReport::Ready(card) => {
                let (sha256, tokens_max) = (card.tokenizer_sha256.as_str(), card.tokens_max);
                if !self.tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.is(sha256, tokens_max)) {
                    // Another model under the same name: the old tokenizer would cut its texts wrongly.
                    self.tokenizer = None;
                    self.tokenizer_error = None;
                }
                if !self.card.as_ref().is_some_and(|known| known.is_same_model(card)) {
                    self.quarantine.empty();
                    self.is_calibrated = false;
                }
                self.card = Some(card.clone());
                self.is_required = true;
                self.last_failure = None;
                (self.failed_at, self.failures, self.deaths) = (None, 0, 0);
            }
            ModelReport::Failed(reason) => {
                self.last_failure = Some(reason.clone());
                self.failed(now);
            }
            ModelReport::Loading | ModelReport::Unloaded => {}
        }
        self.workers.insert(worker, report);
    }

    /// A worker was lost that had begun to read it. One that no worker ever held, and that took several with it, is not
    /// tried on and on: all that they held besides would come and go with it.
    pub(super) fn died_while_loading(&mut self, now: Timestamp) {
        if self.card.is_some() {
            return;
        }
        self.deaths += 1;
        if self.is_given_up() {
            self.last_failure = Some(format!("{} workers in a row were lost while they loaded it", self.deaths));
            self.failed(now);
        }
    }

    /// Workers are not told to load it any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.deaths >= DEATHS_MAX
    }

    fn failed(&mut self, now: Timestamp) {
        self.failures += u32::from(self.failed_at.is_none());
        self.failed_at = Some(now);
    }

    /// Whether it cannot be loaded, as far as is known.
    pub(super) fn has_failed(&self) -> bool {
        self.try_again_at().is_some()
    }

    /// When one that is loaded on demand and could not be may be tried again.
    pub(super) fn try_again_at(&self) -> Option<Timestamp> {
        let doublings = self.failures.saturating_sub(1).min(5);
        Some(self.failed_at.filter(|_| self.ready_workers() == 0)? + RETRY_AFTER * (1 << doublings))
    }

    /// Tells the request path how it is. One that is taken out is no more to be seen there.
    pub(super) fn publish(&self, registry: &Registry) {
        if !self.is_going {
            registry.publish(self.view());
        }
    }

    /// What the request path may know.
    pub(super) fn view(&self) -> ModelView {
        let ready = self.ready_workers();
        ModelView {
            name: self.settings.name.clone(),
            state: self.state(ready > 0),
            card: self.card.clone(),
            tokenizer: self.tokenizer.clone(),
            workers: ready,
            slo: self.settings.slo,
            batch_rows_max: self.settings.batch_rows_max.get(),
            wanted: self.wanted,
            on_demand: self.is_on_demand(),
            is_canary: self.settings.canary.is_some(),
            queue_requests_max: self.settings.queue_requests_max.get(),
            stands_in_for: None,
            is_required: self.is_required && self.wanted && !self.is_on_demand(),
            canaries: self.canaries.clone(),
            queue_time_max: self.settings.queue_time_max,
            awaited: self.awaited.clone(),
            statistics: self.statistics.clone(),
        }
    }

    /// Workers that hold it.
    pub(super) fn ready_workers(&self) -> u32 {
        self.workers.values().filter(|report| matches!(report, ModelReport::Ready(_))).count() as u32
    }

    /// Whether a worker holds it.
    pub(super) fn is_ready_on(&self, worker: WorkerId) -> bool {
        matches!(self.workers.get(&worker), Some(ModelReport::Ready(_)))
    }

    /// Whether it is only loaded when it is called.
    pub(super) fn is_on_demand(&self) -> bool {
        self.settings.load != Load::AtStart
    }

    /// Calls that wait for it to be loaded.
    pub(super) fn awaited(&self) -> u64 {
        self.awaited.count()
    }

    /// Why a call for it is refused at once, if it is. A model whose workers are gone for a moment is waited for.
    pub(super) fn refusal(&self) -> Option<String> {
        match self.state(self.ready_workers() > 0) {
            ModelState::Failed(reason) => Some(reason),
            _ if !self.wanted => Some("it was unloaded".into()),
            ModelState::Unloaded | ModelState::Loading | ModelState::Ready => None,
        }
    }

    /// It is, or is no longer, to be in memory. Workers that are told to unload it count as without it at once: clients
    /// that were told so must not be shown otherwise, nor see it come back before it has.
    pub(super) fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
        self.forget_failures();
        if !wanted {
            self.workers.values_mut().for_each(|report| *report = ModelReport::Unloaded);
        }
    }

    /// Lets it be tried again.
    fn forget_failures(&mut self) {
        (self.last_failure, self.failed_at, self.deaths) = (None, None, 0);
        self.tokenizer_error = None;
        self.quarantine.empty();
        self.workers.retain(|_, report| !matches!(report, ModelReport::Failed(_)));
    }

    /// The tokenizer this model still needs.
    pub(super) fn tokenizer_wanted(&self) -> Option<&str> {
        let card = self.card.as_ref()?;
        let wanted = self.tokenizer.is_none() && !card.tokenizer_sha256.is_empty();
        wanted.then_some(card.tokenizer_sha256.as_str())
    }

    fn state(&self, ready: bool) -> ModelState {
        if !self.wanted {
            return ModelState::Unloaded;
        }
        if let Some(reason) = &self.tokenizer_error {
            return ModelState::Failed(format!("its tokenizer cannot be used: {reason}"));
        }
        if ready {
            return if self.tokenizer_wanted().is_some() { ModelState::Loading } else { ModelState::Ready };
        }
        if self.workers.values().any(|report| matches!(report, ModelReport::Loading)) {
            return ModelState::Loading;
        }
        match &self.last_failure {
            Some(reason) => ModelState::Failed(reason.clone()),
            None => ModelState::Unloaded,
        }
    }
}

/// A fifth more than a duration, in tenths of a millisecond or whole ones, as configuration has it.
fn a_little_more(duration: Duration) -> String {
    let micros = (duration + duration / 5).as_micros();
    match micros {
        ..10_000 => format!("{}us", micros.div_ceil(100) * 100),
        _ => format!("{}ms", micros.div_ceil(1_000)),
    }
}
