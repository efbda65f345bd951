//! Settings of a model in a JSON file. Each is checked where it is read; an error names the file, the field, what stands
//! there and what may.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::ReadError;
use crate::plan::Activation;

/// Bytes of a settings file at most.
pub(super) const SETTINGS_BYTES_MAX: u64 = 4 << 20;
/// No size in a config is larger: the largest encoders have some thousand hidden, the largest vocabulary half a million.
const SIZE_MAX: usize = 1 << 20;
/// Layers at most: several times what any encoder has, and few enough to plan at once.
const LAYERS_MAX: usize = 512;
/// What activations are called in configs.
const ACTIVATIONS: [(&str, Activation); 9] = [
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("tanh", Activation::Tanh),
    ("linear", Activation::Identity),
];

/// `config.json`.
#[derive(Debug)]
pub(crate) struct Config {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Config {
    pub(super) fn read(path: &Path) -> Result<Self, ReadError> {
        let fields = settings(path, SETTINGS_BYTES_MAX)?;
        let fields = fields.ok_or_else(|| ReadError::io(path)(std::io::ErrorKind::NotFound.into()))?;
        Ok(Self { path: path.to_owned(), fields })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A field that is there and not null.
    pub(super) fn value(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Whether a field is there, and null.
    pub(super) fn is_null(&self, field: &str) -> bool {
        self.fields.get(field).is_some_and(Value::is_null)
    }

    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.value(field).and_then(Value::as_str)
    }

    /// A size from 1 up.
    pub(super) fn size(&self, field: &'static str) -> Result<usize, ReadError> {
        match self.whole(field) {
            Some(size) if (1..=SIZE_MAX).contains(&size) => Ok(size),
            _ => Err(self.wrong(field, format!("from 1 to {SIZE_MAX}"))),
        }
    }

    /// How many layers there are.
    pub(super) fn layers(&self, field: &'static str) -> Result<usize, ReadError> {
        match self.size(field)? {
            layers @ ..=LAYERS_MAX => Ok(layers),
            _ => Err(self.wrong(field, format!("from 1 to {LAYERS_MAX}"))),
        }
    }

    pub(super) fn size_or(&self, field: &'static str, default: usize) -> Result<usize, ReadError> {
        if self.value(field).is_none() { Ok(default) } else { self.size(field) }
    }

    /// A whole number from 0 to below `end`.
    pub(super) fn index_or(&self, field: &'static str, default: usize, end: usize) -> Result<usize, ReadError> {
        match self.value(field).map(|_| self.whole(field)) {
            None => Ok(default),
            Some(Some(index)) if index < end => Ok(index),
            Some(_) => Err(self.wrong(field, format!("from 0 to {}", end.saturating_sub(1)))),
        }
    }

    /// The small number that keeps a norm from dividing by zero.
    pub(super) fn epsilon_or(&self, field: &'static str, default: f32) -> Result<f32, ReadError> {
        let Some(value) = self.value(field) else { return Ok(default) };
        match value.as_f64() {
            Some(epsilon) if (0.0..1.0).contains(&epsilon) => Ok(epsilon as f32),
            _ => Err(self.wrong(field, "from 0 to 1")),
        }
    }

    pub(super) fn positive_or(&self, field: &'static str, default: f32) -> Result<f32, ReadError> {
        let Some(value) = self.value(field) else { return Ok(default) };
        positive(value).ok_or_else(|| self.wrong(field, "a number above 0"))
    }

    /// By what rotary positions turn, as `parameters`, which stand in a field, say; in newer configs they have it all.
    pub(super) fn rotary_base(
        &self,
        field: &'static str,
        parameters: Option<&Value>,
        default: f32,
    ) -> Result<f32, ReadError> {
        let Some(parameters) = parameters.filter(|parameters| !parameters.is_null()) else { return Ok(default) };
        if !parameters.is_object() {
            return Err(self.wrong(field, "an object"));
        }
        let kind = parameters.get("rope_type").or_else(|| parameters.get("type"));
        if kind.is_some_and(|kind| kind != "default") {
            return Err(self.wrong(field, "of rope_type default"));
        }
        match parameters.get("rope_theta") {
            None => Ok(default),
            Some(theta) => positive(theta).ok_or_else(|| self.wrong(field, "of a rope_theta above 0")),
        }
    }

    pub(super) fn activation_or(&self, field: &'static str, default: &str) -> Result<Activation, ReadError> {
        let name = if self.value(field).is_none() { Some(default) } else { self.text(field) };
        let known = ACTIVATIONS.iter().find(|(known, _)| Some(*known) == name);
        known
            .map(|(_, activation)| *activation)
            .ok_or_else(|| self.wrong(field, format!("one of {}", ACTIVATIONS.map(|(name, _)| name).join(", "))))
    }

    pub(super) fn flag_or(&self, field: &'static str, default: bool) -> Result<bool, ReadError> {
        let Some(value) = self.value(field) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(field, "true or false"))
    }

    /// A size that is shared out evenly over so many.
    pub(super) fn multiple(&self, field: &'static str, of: &'static str) -> Result<(usize, usize), ReadError> {
        let (size, parts) = (self.size(field)?, self.size(of)?);
        if size.is_multiple_of(parts) {
            return Ok((size, parts));
        }
        Err(self.wrong(field, format!("a multiple of {of}, {parts}")))
    }

    /// The error for a field that is not as it must be.
    pub(super) fn wrong(&self, field: &'static str, wanted: impl Into<String>) -> ReadError {
        let found = match self.value(field) {
            None => "not set".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        ReadError::Field { path: self.path.clone(), field, found, wanted: wanted.into() }
    }

    fn whole(&self, field: &str) -> Option<usize> {
        self.value(field)?.as_u64().and_then(|number| usize::try_from(number).ok())
    }
}

fn positive(value: &Value) -> Option<f32> {
    value.as_f64().map(|value| value as f32).filter(|value| value.is_finite() && *value > 0.0)
}

/// What a JSON file says; none if there is no such file.
pub(super) fn settings<T: DeserializeOwned>(path: &Path, bytes_max: u64) -> Result<Option<T>, ReadError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ReadError::io(path)(error)),
    };
    let mut text = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut text).map_err(ReadError::io(path))?;
    if text.len() as u64 > bytes_max {
        return Err(ReadError::TooLarge { path: path.to_owned(), max: bytes_max });
    }
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|source| ReadError::Json { path: path.to_owned(), source })
}
