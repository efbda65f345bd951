//! One `--model` argument: `NAME[=SOURCE][,slo=50ms][,preset=balanced][,dtype=f32][,load=demand]`.
//!
//! A comma always begins a setting; a source therefore has none (the options of `synthetic` are joined by `+`, and a
//! folder with a comma in its path can be named in the configuration file).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::name::{ModelName, NameError};
use super::source::{Source, SourceError};

/// A model as named on the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelArg {
    /// What it is served as.
    pub name: ModelName,
    /// Where it comes from.
    pub source: Source,
    /// Latency objective (p99).
    pub slo: Option<Duration>,
    /// Objective by word, where no number is known.
    pub preset: Option<Preset>,
    /// What to compute in.
    pub dtype: Option<Dtype>,
    /// When it is loaded.
    pub load: Option<LoadWhen>,
}

impl ModelArg {
    /// Help for a flag that takes this, without the flag's name.
    pub const HELP: &str = "\
A model to serve: NAME[=SOURCE][,slo=50ms][,preset=balanced][,dtype=f32][,load=demand].
SOURCE is a catalogue entry (`shoal models list`), a folder in Hugging Face layout (anything with a `/`), \
hf:org/name@revision, \
`echo`, or `synthetic:base=2ms+per_row=100us` (options joined by `+`); without it NAME is the source.
slo is the p99 latency to keep: a longer one buys throughput. preset (latency, balanced, throughput) says the same in \
words. \
dtype (auto, f32, f16, bf16, int8, int8-mixed) trades exactness for speed. \
load=demand loads it when it is called and not before.";

    /// Shortest and longest objective.
    pub const SLO_MIN: Duration = Duration::from_micros(100);
    /// See [`SLO_MIN`](Self::SLO_MIN).
    pub const SLO_MAX: Duration = Duration::from_secs(3600);
    const SETTINGS: [&str; 4] = ["slo", "preset", "dtype", "load"];

    fn set(&mut self, setting: &str) -> Result<(), ModelArgError> {
        let Some((key, value)) = setting.split_once('=') else {
            return Err(ModelArgError::NoValue { found: setting.to_owned() });
        };
        let once = |taken: bool| if taken { Err(ModelArgError::Twice { setting: key.to_owned() }) } else { Ok(()) };
        match key {
            "slo" => {
                once(self.slo.is_some())?;
                self.slo = Some(slo(value)?);
            }
            "preset" => {
                once(self.preset.is_some())?;
                self.preset = Some(value.parse()?);
            }
            "dtype" => {
                once(self.dtype.is_some())?;
                self.dtype = Some(value.parse()?);
            }
            "load" => {
                once(self.load.is_some())?;
                self.load = Some(value.parse()?);
            }
            _ => {
                let near = super::nearest(key, Self::SETTINGS);
                return Err(ModelArgError::UnknownSetting { found: key.to_owned(), near });
            }
        }
        Ok(())
    }
}

impl FromStr for ModelArg {
    type Err = ModelArgError;

    fn from_str(text: &str) -> Result<Self, ModelArgError> {
        let mut parts = text.split(',');
        // `split` yields at least one part.
        let model = parts.next().unwrap_or_default();
        let (name, source) = match model.split_once('=') {
            Some((name, source)) => (name.parse().map_err(|e| nameless(e, model))?, source.parse()?),
            None => {
                let name: ModelName = model.parse().map_err(|e| nameless(e, model))?;
                let source = Source::of_name(&name)?;
                (name, source)
            }
        };
        let mut arg = Self { name, source, slo: None, preset: None, dtype: None, load: None };
        for setting in parts {
            arg.set(setting)?;
        }
        Ok(arg)
    }
}

/// A source where the name should be is a likely slip with a clear remedy.
fn nameless(error: NameError, text: &str) -> ModelArgError {
    match text.parse::<Source>() {
        Ok(_) => ModelArgError::Nameless { found: text.to_owned() },
        Err(_) => ModelArgError::Name(error),
    }
}

fn slo(text: &str) -> Result<Duration, ModelArgError> {
    match humantime::parse_duration(text) {
        Ok(slo) if (ModelArg::SLO_MIN..=ModelArg::SLO_MAX).contains(&slo) => Ok(slo),
        _ => Err(ModelArgError::Value {
            setting: "slo",
            found: text.to_owned(),
            expected: "a duration such as 50ms, from 100us to 1h".to_owned(),
        }),
    }
}

/// An objective in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Answers as soon as possible; batches form only while the device is busy.
    Latency,
    /// Waits a little where that buys much.
    Balanced,
    /// Fills batches.
    Throughput,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 3] = [Self::Latency, Self::Balanced, Self::Throughput];

    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Balanced => "balanced",
            Self::Throughput => "throughput",
        }
    }
}

impl FromStr for Preset {
    type Err = ModelArgError;

    fn from_str(text: &str) -> Result<Self, ModelArgError> {
        Self::ALL.into_iter().find(|preset| preset.as_str() == text).ok_or_else(|| ModelArgError::Value {
            setting: "preset",
            found: text.to_owned(),
            expected: Self::ALL.map(Self::as_str).join(", "),
        })
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a model computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dtype {
    /// bf16 where the silicon has it and is quicker with it, else f32.
    #[default]
    Auto,
    F32,
    /// On GPUs.
    F16,
    Bf16,
    Int8,
    /// int8 where it costs next to nothing, else bf16.
    Int8Mixed,
}

impl Dtype {
    /// Every choice.
    pub const ALL: [Self; 6] = [Self::Auto, Self::F32, Self::F16, Self::Bf16, Self::Int8, Self::Int8Mixed];

    /// As written, and as the worker link has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int8Mixed => "int8-mixed",
        }
    }
}

impl FromStr for Dtype {
    type Err = ModelArgError;

    fn from_str(text: &str) -> Result<Self, ModelArgError> {
        Self::ALL.into_iter().find(|dtype| dtype.as_str() == text).ok_or_else(|| ModelArgError::Value {
            setting: "dtype",
            found: text.to_owned(),
            expected: Self::ALL.map(Self::as_str).join(", "),
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadWhen {
    /// When the server starts.
    #[default]
    Start,
    /// When it is called.
    Demand,
}

impl LoadWhen {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Start, Self::Demand];

    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Demand => "demand",
        }
    }
}

impl FromStr for LoadWhen {
    type Err = ModelArgError;

    fn from_str(text: &str) -> Result<Self, ModelArgError> {
        Self::ALL.into_iter().find(|when| when.as_str() == text).ok_or_else(|| ModelArgError::Value {
            setting: "load",
            found: text.to_owned(),
            expected: Self::ALL.map(Self::as_str).join(", "),
        })
    }
}

/// Why a text is no `--model` argument.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ModelArgError {
    #[error(transparent)]
    Name(NameError),
    #[error("`{found}` is a source; it needs a name to be served under, as in `name={found}`")]
    Nameless { found: String },
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(
        "`{found}` is no setting of a model; a setting is slo=, preset=, dtype= or load=, and a source has no comma"
    )]
    NoValue { found: String },
    #[error("a model has no setting `{found}`; did you mean `{near}`?")]
    UnknownSetting { found: String, near: String },
    #[error("`{setting}` is given twice")]
    Twice { setting: String },
    #[error("`{setting}` is `{found}`; expected {expected}")]
    Value { setting: &'static str, found: String, expected: String },
}

#[cfg(test)]
mod tests;
