//! One model's configuration: its table in the file, laid under its flag.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;
use shoal_scheduler::{OnLate, PolicyConfig};

use crate::driver::{CanaryOf, Load, ModelSettings};
use crate::models::{Dtype, LoadWhen, ModelArg, ModelName, Place, Preset, Source};

use super::error::ConfigError;
use super::settings::HumanDuration;

/// The largest batch in rows unless a model says otherwise.
const BATCH_ROWS_MAX: NonZeroU32 = NonZeroU32::new(1024).unwrap();
/// The largest batch in tokens unless a model says otherwise.
const BATCH_TOKENS_MAX: NonZeroU32 = NonZeroU32::new(16_384).unwrap();
/// Rows queued for one model unless it says otherwise.
const QUEUE_REQUESTS_MAX: NonZeroU32 = NonZeroU32::new(32_768).unwrap();
/// The same under `tei`: text-embeddings-inference's `max_concurrent_requests`. It counts what runs too; here that is apart.
const TEI_QUEUE_REQUESTS_MAX: NonZeroU32 = NonZeroU32::new(512).unwrap();

/// How long a model that is loaded on demand stays without a call unless it says otherwise.
const UNLOAD_AFTER: Duration = Duration::from_secs(15 * 60);
/// The shortest such time: less would load it anew for every other call.
const UNLOAD_AFTER_MIN: Duration = Duration::from_secs(1);

/// A model to serve.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// What clients call it.
    pub name: ModelName,
    /// Where it is read.
    pub source: Source,
    /// What it computes in.
    pub dtype: Dtype,
    /// The latency objective (p99).
    pub slo: Duration,
    /// It was stated, and does not only follow from the preset.
    pub is_slo_stated: bool,
    /// How long a row may wait.
    pub queue_time_max: Duration,
    /// Rows queued at most.
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

/// Names of the policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    /// Let the objective and what batches cost decide.
    #[default]
    Learned,
    /// Close as soon as a worker is free, with all that fits.
    Fixed,
    /// Triton's dynamic batcher: preferred sizes and a delay.
    Triton,
    /// text-embeddings-inference: `fixed` up to a budget of tokens, with a short queue.
    Tei,
}

/// What becomes of rows that cannot be on time, as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLateName {
    /// They wait behind those that can.
    #[default]
    Serve,
    /// They are refused.
    Shed,
}

/// A model's table in the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelFile {
    source: Option<Source>,
    slo: Option<HumanDuration>,
    preset: Option<Preset>,
    dtype: Option<Dtype>,
    load: Option<LoadWhen>,
    unload_after: Option<HumanDuration>,
    canary_of: Option<ModelName>,
    canary_percent: Option<f64>,
    queue_time_max: Option<HumanDuration>,
    queue_requests_max: Option<NonZeroU32>,
    batch_time_max: Option<HumanDuration>,
    batch_rows_max: Option<NonZeroU32>,
    batch_tokens_max: Option<NonZeroU32>,
    policy: Option<PolicyName>,
    on_late: Option<OnLateName>,
    queue_delay_max: Option<HumanDuration>,
    preferred_rows: Option<Vec<NonZeroU32>>,
}

impl ModelFile {
    pub(super) const KEYS: &[&str] = &[
        "source",
        "slo",
        "preset",
        "dtype",
        "load",
        "unload_after",
        "canary_of",
        "canary_percent",
        "queue_time_max",
        "queue_requests_max",
        "batch_time_max",
        "batch_rows_max",
        "batch_tokens_max",
        "policy",
        "on_late",
        "queue_delay_max",
        "preferred_rows",
    ];

    pub(super) fn check(self, name: ModelName) -> Result<ModelConfig, ConfigError> {
        let key = |key: &str| format!("models.{name}.{key}");
        let source = match self.source {
            Some(source) => source,
            None => Source::of_name(&name)
                .map_err(|error| ConfigError::Value { key: key("source"), problem: error.to_string() })?,
        };
        let name_of_policy = self.policy.unwrap_or_default();
        let misplaced = [
            ("on_late", self.on_late.is_some(), PolicyName::Learned, "learned"),
            ("queue_delay_max", self.queue_delay_max.is_some(), PolicyName::Triton, "triton"),
            ("preferred_rows", self.preferred_rows.is_some(), PolicyName::Triton, "triton"),
        ];
        if let Some((which, _, _, needs)) =
            misplaced.into_iter().find(|(_, is_set, of, _)| *is_set && *of != name_of_policy)
        {
            return Err(ConfigError::Value { key: key(which), problem: format!("needs `policy = \"{needs}\"`") });
        }
        if let Some(HumanDuration(unload_after)) = self.unload_after {
            let problem = match self.load {
                Some(LoadWhen::Demand) if unload_after >= UNLOAD_AFTER_MIN => None,
                Some(LoadWhen::Demand) => Some("must be 1s or more"),
                Some(LoadWhen::Start) | None => Some("needs `load = \"demand\"`"),
            };
            if let Some(problem) = problem {
                return Err(ConfigError::Value { key: key("unload_after"), problem: problem.to_owned() });
            }
        }
        let canary = match (self.canary_of, self.canary_percent) {
            (None, None) => None,
            (Some(of), Some(percent)) if percent > 0.0 && percent <= 100.0 => {
                Some(CanaryOf { model: of.as_str().into(), percent })
            }
            (Some(_), Some(_)) => {
                let problem = "must be above 0, 100 at most".to_owned();
                return Err(ConfigError::Value { key: key("canary_percent"), problem });
            }
            (Some(_), None) => {
                let problem = "is required by `canary_of`: how many of a hundred calls it takes".to_owned();
                return Err(ConfigError::Value { key: key("canary_percent"), problem });
            }
            (None, Some(_)) => {
                let problem = "is required by `canary_percent`: whose calls it takes".to_owned();
                return Err(ConfigError::Value { key: key("canary_of"), problem });
            }
        };
        let policy = match name_of_policy {
            PolicyName::Learned => {
                learned(self.preset.unwrap_or(Preset::Balanced), self.on_late.unwrap_or_default().into())
            }
            // What tells them apart are limits, below.
            PolicyName::Fixed | PolicyName::Tei => PolicyConfig::Fixed,
            PolicyName::Triton => {
                let mut preferred_rows = self.preferred_rows.unwrap_or_default();
                preferred_rows.sort_unstable();
                PolicyConfig::Triton {
                    queue_delay_max: self.queue_delay_max.map_or(Duration::ZERO, Into::into),
                    preferred_rows,
                }
            }
        };
        if let Some(HumanDuration(slo)) = self.slo
            && !(ModelArg::SLO_MIN..=ModelArg::SLO_MAX).contains(&slo)
        {
            let problem = "must be from 100us to 1h".to_owned();
            return Err(ConfigError::Value { key: key("slo"), problem });
        }
        let mut defaults = ModelConfig::new(name, source);
        if name_of_policy == PolicyName::Tei {
            defaults.queue_requests_max = TEI_QUEUE_REQUESTS_MAX;
        }
        Ok(ModelConfig {
            slo: slo(self.slo.map(Into::into), self.preset),
            is_slo_stated: self.slo.is_some(),
            dtype: self.dtype.unwrap_or(defaults.dtype),
            queue_time_max: self.queue_time_max.map_or(defaults.queue_time_max, Into::into),
            queue_requests_max: self.queue_requests_max.unwrap_or(defaults.queue_requests_max),
            batch_time_max: self.batch_time_max.map_or(defaults.batch_time_max, Into::into),
            batch_rows_max: self.batch_rows_max.unwrap_or(defaults.batch_rows_max),
            batch_tokens_max: self.batch_tokens_max.unwrap_or(defaults.batch_tokens_max),
            policy,
            load: load(self.load.unwrap_or_default(), self.unload_after.map(Into::into)),
            canary,
            ..defaults
        })
    }
}

impl ModelConfig {
    /// A model with every default.
    pub fn new(name: ModelName, source: Source) -> Self {
        Self {
            name,
            source,
            dtype: Dtype::Auto,
            slo: slo(None, None),
            is_slo_stated: false,
            queue_time_max: Duration::from_secs(60),
            queue_requests_max: QUEUE_REQUESTS_MAX,
            batch_time_max: Duration::from_secs(60),
            batch_rows_max: BATCH_ROWS_MAX,
            batch_tokens_max: BATCH_TOKENS_MAX,
            policy: learned(Preset::Balanced, OnLate::Serve),
            load: Load::AtStart,
            canary: None,
        }
    }

    /// The model as the driver wants it; `place` is where local workers read it.
    pub fn settings(&self, place: Option<Place>) -> ModelSettings {
        ModelSettings {
            name: self.name.as_str().into(),
            place,
            dtype: self.dtype.as_str().into(),
            slo: self.slo,
            is_slo_stated: self.is_slo_stated,
            queue_time_max: self.queue_time_max,
            queue_requests_max: self.queue_requests_max,
            batch_time_max: self.batch_time_max,
            batch_rows_max: self.batch_rows_max,
            batch_tokens_max: self.batch_tokens_max,
            policy: self.policy.clone(),
            load: self.load,
            canary: self.canary.clone(),
        }
    }

    fn apply(&mut self, arg: &ModelArg) {
        self.source = arg.source.clone();
        if arg.slo.is_some() || arg.preset.is_some() {
            (self.slo, self.is_slo_stated) = (slo(arg.slo, arg.preset), arg.slo.is_some());
        }
        if let (Some(preset), PolicyConfig::Learned { on_late, .. }) = (arg.preset, &self.policy) {
            self.policy = learned(preset, *on_late);
        }
        if let Some(dtype) = arg.dtype {
            self.dtype = dtype;
        }
        if let Some(when) = arg.load {
            let stated = match self.load {
                Load::OnDemand { unload_after } => Some(unload_after),
                Load::AtStart => None,
            };
            self.load = load(when, stated);
        }
    }
}

/// The models of the file, with those of the flags over them or beside them.
pub(super) fn merge(mut models: Vec<ModelConfig>, flags: &[ModelArg]) -> Result<Vec<ModelConfig>, ConfigError> {
    let mut seen: Vec<&ModelName> = Vec::with_capacity(flags.len());
    for arg in flags {
        if seen.contains(&&arg.name) {
            let problem = format!("`{}` is named twice", arg.name);
            return Err(ConfigError::Value { key: "model".into(), problem });
        }
        seen.push(&arg.name);
        match models.iter_mut().find(|model| model.name == arg.name) {
            Some(model) => model.apply(arg),
            None => {
                let mut model = ModelConfig::new(arg.name.clone(), arg.source.clone());
                model.apply(arg);
                models.push(model);
            }
        }
    }
    Ok(models)
}

/// Checks what is asked of models that are loaded when they are called.
pub(super) fn check_demand(models: &[ModelConfig]) -> Result<(), ConfigError> {
    for model in models.iter().filter(|model| model.load != Load::AtStart) {
        let sheds = matches!(model.policy, PolicyConfig::Learned { on_late: OnLate::Shed, .. });
        let (key, problem) = match &model.canary {
            _ if sheds => ("on_late", "would shed the calls that a model on demand is loaded for"),
            Some(_) => ("canary_of", "is for a model that is there: what is tried is not loaded for it"),
            None => continue,
        };
        let key = format!("models.{}.{key}", model.name);
        return Err(ConfigError::Value { key, problem: problem.to_owned() });
    }
    Ok(())
}

/// Checks that who takes a part of another one's calls can.
pub(super) fn check_canaries(models: &[ModelConfig]) -> Result<(), ConfigError> {
    let mut taken: BTreeMap<&str, f64> = BTreeMap::new();
    for model in models {
        let Some(CanaryOf { model: of, percent }) = &model.canary else { continue };
        let wrong = |problem: String| {
            let key = format!("models.{}.canary_of", model.name);
            Err(ConfigError::Value { key, problem })
        };
        match models.iter().find(|other| other.name.as_str() == &**of) {
            None => return wrong(format!("there is no model `{of}`")),
            Some(other) if other.name == model.name => return wrong("is the model itself".to_owned()),
            Some(other) if other.canary.is_some() => {
                return wrong(format!("`{of}` takes a part of another one's calls itself"));
            }
            Some(_) => {}
        }
        let sum = taken.entry(of).or_default();
        *sum += percent;
        if *sum > 100.0 {
            return wrong(format!("more than all of the calls for `{of}` are given away: {sum} %"));
        }
    }
    Ok(())
}

/// The objective: as stated, else by preset, else the balanced one.
fn slo(stated: Option<Duration>, preset: Option<Preset>) -> Duration {
    stated.unwrap_or(match preset.unwrap_or(Preset::Balanced) {
        Preset::Latency => Duration::from_millis(50),
        Preset::Balanced => Duration::from_millis(200),
        Preset::Throughput => Duration::from_secs(1),
    })
}

/// When a model is loaded, and how long it stays.
fn load(when: LoadWhen, unload_after: Option<Duration>) -> Load {
    match when {
        LoadWhen::Start => Load::AtStart,
        LoadWhen::Demand => Load::OnDemand { unload_after: unload_after.unwrap_or(UNLOAD_AFTER) },
    }
}

/// The policy that follows the objective, with what a preset says waiting is worth.
fn learned(preset: Preset, on_late: OnLate) -> PolicyConfig {
    let (wait_price, waits_when_idle) = match preset {
        Preset::Latency => (0, false),
        Preset::Balanced => (1, false),
        Preset::Throughput => (16, true),
    };
    PolicyConfig::Learned { wait_price, waits_when_idle, on_late }
}

impl From<OnLateName> for OnLate {
    fn from(name: OnLateName) -> Self {
        match name {
            OnLateName::Serve => Self::Serve,
            OnLateName::Shed => Self::Shed,
        }
    }
}
