//! A call to embed, read from OpenAI's form of it.
//!
//! Each field is read apart, so that what is wrong is named.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::call::{CallError, RowOptions};
use crate::frontend::Embed;
use crate::oip::Short;

use super::super::error::ApiError;
use super::input;
use super::response::Form;

/// A call as its body states it.
#[derive(Debug)]
pub(super) struct EmbeddingsRequest {
    pub(super) embed: Embed,
    /// The input is not in a list.
    pub(super) lone: bool,
    /// How vectors are to be written.
    pub(super) form: Form,
}

impl EmbeddingsRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// That it is no JSON, or which field is wrong.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::read(body)?;
        let model: Option<String> = typed("model", fields.model, "must be a model's name")?;
        let dimensions: Option<std::num::NonZeroU32> =
            typed("dimensions", fields.dimensions, "must be a whole number from 1")?;
        let form = match typed::<String>("encoding_format", fields.encoding_format, FORMS)?.as_deref() {
            None => Form::default(),
            Some("float") => Form::Float,
            Some("base64") => Form::Base64,
            Some(_) => return Err(invalid("encoding_format", FORMS).into()),
        };
        // For whoever reads the call later; which account it counts on, a header says.
        let _user: Option<String> = typed("user", fields.user, "must be a text")?;
        let truncate = typed("truncate", fields.truncate, "must be true or false")?;
        let normalize = typed("normalize", fields.normalize, "must be true or false")?;
        let Some(input) = fields.input else { return Err(invalid("input", input::PROBLEM).into()) };
        let (input, lone) = input::read(input)?;
        let options = RowOptions { normalize, dimensions: dimensions.map_or(0, Into::into), ..RowOptions::default() };
        let embed = Embed { model: model.unwrap_or_default(), input, truncate: truncate.unwrap_or_default(), options };
        Ok(Self { embed, lone, form })
    }
}

const FORMS: &str = "must be `float` or `base64`";

pub(super) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> CallError {
    CallError::InvalidArgument { field: field.into(), problem: problem.into() }
}

/// A field's value; `null` is as good as none.
fn typed<'a, T: Deserialize<'a>>(
    field: &str,
    raw: Option<&'a RawValue>,
    problem: &str,
) -> Result<Option<T>, CallError> {
    let Some(raw) = raw else { return Ok(None) };
    serde_json::from_str(raw.get()).map_err(|_| invalid(field, problem))
}

/// The fields of a body, known to be JSON and not read further.
#[derive(Debug, Default)]
struct Fields<'a> {
    input: Option<&'a RawValue>,
    model: Option<&'a RawValue>,
    encoding_format: Option<&'a RawValue>,
    dimensions: Option<&'a RawValue>,
    user: Option<&'a RawValue>,
    truncate: Option<&'a RawValue>,
    normalize: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    const NAMES: [&'static str; 7] =
        ["input", "model", "encoding_format", "dimensions", "user", "truncate", "normalize"];

    fn read(body: &'a [u8]) -> Result<Self, ApiError> {
        let mut unknown = None;
        let mut json = serde_json::Deserializer::from_slice(body);
        let read = FieldsSeed { unknown: &mut unknown }.deserialize(&mut json);
        // What follows the object is read too: a body is one value.
        match read.and_then(|fields| json.end().map(|()| fields)) {
            Ok(fields) => Ok(fields),
            Err(_) if unknown.is_some() => Err(unknown_field(&unknown.unwrap_or_default()).into()),
            Err(error) if error.classify() == Category::Data => {
                Err(CallError::InvalidArgument { field: "body".into(), problem: "must be a JSON object".into() }.into())
            }
            Err(error) => Err(ApiError::not_json(&error)),
        }
    }

    fn slot(&mut self, name: &str) -> Option<&mut Option<&'a RawValue>> {
        Some(match name {
            "input" => &mut self.input,
            "model" => &mut self.model,
            "encoding_format" => &mut self.encoding_format,
            "dimensions" => &mut self.dimensions,
            "user" => &mut self.user,
            "truncate" => &mut self.truncate,
            "normalize" => &mut self.normalize,
            _ => return None,
        })
    }
}

/// OpenAI refuses what it does not know, and so must whoever answers in its place: an option that is passed over in
/// silence is a wrong answer.
fn unknown_field(name: &str) -> CallError {
    let name = Short(name).to_string();
    let problem = format!("is not a field of this call; there are {}", Fields::NAMES.join(", "));
    invalid(name, problem)
}

struct FieldsSeed<'u> {
    /// Where the name of a field that there is not goes.
    unknown: &'u mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for FieldsSeed<'_> {
    type Value = Fields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldsSeed<'_> {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<String>()? {
            match fields.slot(&name) {
                Some(slot) => *slot = Some(map.next_value()?),
                None => {
                    *self.unknown = Some(name);
                    return Err(A::Error::custom("unknown field"));
                }
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests;
