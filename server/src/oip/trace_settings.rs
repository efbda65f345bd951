//! Which calls are traced: the trace extension's settings, for all models and for each, and the samplers that follow
//! them. What a trace holds and where it goes is for the service.
//!
//! A setting of a model's own wins over the one for all models; a setting that is cleared gives way again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use shoal_proto::inference::{TraceSettingRequest, TraceSettingResponse, trace_setting_response};

use super::quote::{Quoted, Short};
use super::{invalid, not_offered};
use crate::call::CallError;

const KNOWN: &str = "trace_level, trace_rate, trace_count, log_frequency";

/// What the trace of a call holds. Nothing when both are off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceLevel {
    /// When it arrived, was queued, was dispatched, was computed, was answered.
    pub timestamps: bool,
    /// Names, types and shapes of its tensors. Values are never traced.
    pub tensors: bool,
}

/// The settings for all models at start, and what clearing one of them returns to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceDefaults {
    /// What a trace holds.
    pub level: TraceLevel,
    /// One call of so many is traced; at least 1.
    pub rate: u32,
    /// So many calls of each model are traced; -1 for no end.
    pub count: i32,
}

impl Default for TraceDefaults {
    /// As Triton starts: nothing traced, and then one call in 1,000, without end.
    fn default() -> Self {
        Self { level: TraceLevel::default(), rate: 1000, count: -1 }
    }
}

/// What a request changed: the settings it named, with the values that hold now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceChange {
    /// The model it was about; `None` for all models.
    pub model: Option<String>,
    /// What a trace holds.
    pub level: Option<TraceLevel>,
    /// One call of so many is traced.
    pub rate: Option<u32>,
    /// So many calls are traced from now on.
    pub count: Option<i32>,
}

/// The trace settings.
#[derive(Debug)]
pub struct TraceSettings {
    defaults: TraceDefaults,
    global: TraceDefaults,
    models: BTreeMap<Arc<str>, Model>,
}

/// The settings of one model.
#[derive(Debug)]
struct Model {
    own: Overrides,
    sampler: Arc<TraceSampler>,
}

/// Settings of a model's own.
#[derive(Clone, Copy, Debug, Default)]
struct Overrides {
    level: Option<TraceLevel>,
    rate: Option<u32>,
    count: Option<i32>,
}

/// What a request says about each setting: nothing, that it is cleared, or a value.
#[derive(Clone, Copy, Debug, Default)]
struct Patch {
    level: Option<Option<TraceLevel>>,
    rate: Option<Option<u32>>,
    count: Option<Option<i32>>,
}

/// Says which calls of one model are traced. Shared and asked without a lock.
#[derive(Debug)]
pub struct TraceSampler {
    level: AtomicU8,
    rate: AtomicU32,
    /// Traces left; -1 for no end.
    left: AtomicI32,
    seen: AtomicU64,
}

impl TraceSettings {
    /// The settings at start.
    pub fn new(mut defaults: TraceDefaults) -> Self {
        defaults.rate = defaults.rate.max(1);
        Self { defaults, global: defaults, models: BTreeMap::new() }
    }

    /// Adds a configured model and returns its sampler; of a model already there, the same one again.
    pub fn add_model(&mut self, model: &Arc<str>) -> Arc<TraceSampler> {
        let global = self.global;
        let entry = self
            .models
            .entry(Arc::clone(model))
            .or_insert_with(|| Model { own: Overrides::default(), sampler: Arc::new(TraceSampler::new(global)) });
        Arc::clone(&entry.sampler)
    }

    /// Forgets a model that is configured no more.
    pub fn remove_model(&mut self, model: &str) {
        self.models.remove(model);
    }

    /// Does what `request` asks, all of it or nothing; the samplers follow at once. Requests that name no setting change
    /// nothing. Whether settings may be changed is for the caller to know.
    ///
    /// # Errors
    /// [`CallError::UnknownModel`]; [`CallError::InvalidArgument`] naming the setting; [`CallError::Unimplemented`] for
    /// `trace_file`: no client says where this server writes.
    pub fn apply(&mut self, request: &TraceSettingRequest) -> Result<TraceChange, CallError> {
        let patch = Patch::parse(request)?;
        if request.model_name.is_empty() {
            return Ok(self.apply_global(patch));
        }
        let global = self.global;
        let Some(model) = self.models.get_mut(request.model_name.as_str()) else {
            return Err(unknown_model(&request.model_name));
        };
        model.own.level = patch.level.unwrap_or(model.own.level);
        model.own.rate = patch.rate.unwrap_or(model.own.rate);
        model.own.count = patch.count.unwrap_or(model.own.count);
        let now = model.own.over(global);
        model.sampler.follow(now, patch.count.is_some());
        Ok(patch.change(Some(request.model_name.clone()), now))
    }

    /// The settings of a model, or for all models when its name is empty. `trace_count` of a model is what is left of it.
    ///
    /// # Errors
    /// [`CallError::UnknownModel`].
    pub fn response(&self, model: &str) -> Result<TraceSettingResponse, CallError> {
        let (settings, count) = if model.is_empty() {
            (self.global, self.global.count)
        } else {
            let model = self.models.get(model).ok_or_else(|| unknown_model(model))?;
            (model.own.over(self.global), model.sampler.left.load(Relaxed))
        };
        let rows = [
            ("trace_level", settings.level.names()),
            ("trace_rate", vec![settings.rate.to_string()]),
            ("trace_count", vec![count.to_string()]),
            // Each trace is written when it ends.
            ("log_frequency", vec!["0".to_owned()]),
            // Traces go to the log.
            ("trace_file", vec![String::new()]),
            ("trace_mode", vec!["log".to_owned()]),
        ];
        let row = |(name, value): (&str, _)| (name.to_owned(), trace_setting_response::SettingValue { value });
        Ok(TraceSettingResponse { settings: rows.into_iter().map(row).collect() })
    }

    fn apply_global(&mut self, patch: Patch) -> TraceChange {
        let old = self.global;
        self.global = TraceDefaults {
            level: patch.level.map_or(old.level, |level| level.unwrap_or(self.defaults.level)),
            rate: patch.rate.map_or(old.rate, |rate| rate.unwrap_or(self.defaults.rate)),
            count: patch.count.map_or(old.count, |count| count.unwrap_or(self.defaults.count)),
        };
        for model in self.models.values() {
            model.sampler.follow(model.own.over(self.global), patch.count.is_some() && model.own.count.is_none());
        }
        patch.change(None, self.global)
    }
}

impl Default for TraceSettings {
    fn default() -> Self {
        Self::new(TraceDefaults::default())
    }
}

impl TraceSampler {
    fn new(settings: TraceDefaults) -> Self {
        Self {
            level: AtomicU8::new(settings.level.bits()),
            rate: AtomicU32::new(settings.rate),
            left: AtomicI32::new(settings.count),
            seen: AtomicU64::new(0),
        }
    }

    /// Whether the call just arrived is traced, and how. Asking counts the call: every `trace_rate`-th is traced, until
    /// `trace_count` were.
    pub fn sample(&self) -> Option<TraceLevel> {
        let level = TraceLevel::from_bits(self.level.load(Relaxed));
        if level == TraceLevel::default() {
            return None;
        }
        // The rate is at least 1: `new` and `Patch::parse` see to it.
        let seen = self.seen.fetch_add(1, Relaxed).wrapping_add(1);
        if !seen.is_multiple_of(self.rate.load(Relaxed).into()) {
            return None;
        }
        let spend = |left: i32| (left != 0).then(|| if left > 0 { left - 1 } else { left });
        self.left.fetch_update(Relaxed, Relaxed, spend).ok().map(|_| level)
    }

    /// Takes over changed settings; those that did not change keep what was counted.
    fn follow(&self, settings: TraceDefaults, count_changed: bool) {
        self.level.store(settings.level.bits(), Relaxed);
        if self.rate.swap(settings.rate, Relaxed) != settings.rate {
            self.seen.store(0, Relaxed);
        }
        if count_changed {
            self.left.store(settings.count, Relaxed);
        }
    }
}

impl TraceLevel {
    /// As the protocol lists it.
    fn names(self) -> Vec<String> {
        let names = [(self.timestamps, "TIMESTAMPS"), (self.tensors, "TENSORS")];
        let names: Vec<String> = names.into_iter().filter(|(on, _)| *on).map(|(_, name)| name.to_owned()).collect();
        if names.is_empty() { vec!["OFF".to_owned()] } else { names }
    }

    fn bits(self) -> u8 {
        u8::from(self.timestamps) | u8::from(self.tensors) << 1
    }

    fn from_bits(bits: u8) -> Self {
        Self { timestamps: bits & 1 != 0, tensors: bits & 2 != 0 }
    }
}

impl Overrides {
    fn over(self, global: TraceDefaults) -> TraceDefaults {
        TraceDefaults {
            level: self.level.unwrap_or(global.level),
            rate: self.rate.unwrap_or(global.rate),
            count: self.count.unwrap_or(global.count),
        }
    }
}

impl Patch {
    fn parse(request: &TraceSettingRequest) -> Result<Self, CallError> {
        let mut patch = Self::default();
        let mut names: Vec<&String> = request.settings.keys().collect();
        // In order, so that of several mistakes always the same one is named.
        names.sort_unstable();
        for name in names {
            let values = request.settings[name].value.as_slice();
            match name.as_str() {
                "trace_level" => patch.level = Some(level(values)?),
                "trace_rate" => patch.rate = Some(number(name, values, 1..=i64::from(u32::MAX))?),
                "trace_count" => patch.count = Some(number(name, values, -1..=i64::from(i32::MAX))?),
                // Each trace is written when it ends, so that there is nothing to gather.
                "log_frequency" => {
                    number::<u8>(name, values, 0..=0)?;
                }
                "trace_file" => return Err(not_offered("setting the trace file over the network")),
                _ => {
                    let field = format!("settings.{}", Short(name));
                    return Err(invalid(field, format!("cannot be set; there are {KNOWN}")));
                }
            }
        }
        Ok(patch)
    }

    fn change(self, model: Option<String>, now: TraceDefaults) -> TraceChange {
        TraceChange {
            model,
            level: self.level.map(|_| now.level),
            rate: self.rate.map(|_| now.rate),
            count: self.count.map(|_| now.count),
        }
    }
}

/// `None` when there is no value, which clears the setting.
fn level(values: &[String]) -> Result<Option<TraceLevel>, CallError> {
    const FIELD: &str = "settings.trace_level";
    let mut level = TraceLevel::default();
    for value in values {
        match value.as_str() {
            "OFF" if values.len() == 1 => {}
            "OFF" => return Err(invalid(FIELD, "OFF stands alone")),
            "TIMESTAMPS" => level.timestamps = true,
            "TENSORS" => level.tensors = true,
            other => return Err(invalid(FIELD, format!("{} is none of OFF, TIMESTAMPS, TENSORS", Quoted(other)))),
        }
    }
    Ok((!values.is_empty()).then_some(level))
}

/// `None` when there is no value, which clears the setting.
fn number<N: TryFrom<i64>>(
    name: &str,
    values: &[String],
    range: std::ops::RangeInclusive<i64>,
) -> Result<Option<N>, CallError> {
    let field = format!("settings.{name}");
    match values {
        [] => Ok(None),
        [value] => {
            let number = value.parse().ok().filter(|number| range.contains(number)).and_then(|it| N::try_from(it).ok());
            let problem = || format!("{} is no number from {} to {}", Quoted(value), range.start(), range.end());
            number.map(Some).ok_or_else(|| invalid(field, problem()))
        }
        _ => Err(invalid(field, "takes one value")),
    }
}

fn unknown_model(model: &str) -> CallError {
    CallError::UnknownModel { model: Short(model).to_string(), near: None }
}

#[cfg(test)]
mod tests;
