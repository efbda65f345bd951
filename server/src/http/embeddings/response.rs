//! Embeddings in OpenAI's form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::ser::{Error as _, SerializeSeq as _};
use serde::{Serialize, Serializer};

use crate::call::CallError;
use crate::frontend::{Computed, embedding};

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// A list of numbers, each as short as tells it from every other `f32`.
    #[default]
    Float,
    /// Little-endian `f32` in base64.
    Base64,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Data<'a>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
}

struct Data<'a> {
    vectors: &'a [&'a Bytes],
    form: Form,
}

#[derive(Serialize)]
struct Entry<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

struct Vector<'a> {
    values: &'a [u8],
    form: Form,
}

/// The answer's body.
///
/// # Errors
/// `Internal` when the worker returned something that is no embedding.
pub(super) fn body(embedded: &Computed, form: Form) -> Result<Vec<u8>, CallError> {
    let vectors: Vec<&Bytes> = embedded.answer.rows.iter().map(|row| embedding(row)).collect::<Result<_, _>>()?;
    let tokens = embedded.tokens;
    write(&vectors, form, &embedded.model.name, tokens)
}

fn write(vectors: &[&Bytes], form: Form, model: &str, tokens: u32) -> Result<Vec<u8>, CallError> {
    // About what a number between -1 and 1 takes in either form, and what is around a vector.
    let bytes_per_value = if form == Form::Float { 13 } else { 6 };
    let values: usize = vectors.iter().map(|vector| vector.len() / size_of::<f32>()).sum();
    let mut body = Vec::with_capacity(256 + 64 * vectors.len() + bytes_per_value * values);
    let usage = Usage { prompt_tokens: tokens, total_tokens: tokens };
    let list = List { object: "list", data: Data { vectors, form }, model, usage };
    serde_json::to_writer(&mut body, &list).map_err(|error| CallError::Internal { what: error.to_string() })?;
    Ok(body)
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.vectors.iter().enumerate().map(|(index, values)| Entry {
            object: "embedding",
            index,
            embedding: Vector { values, form: self.form },
        }))
    }
}

impl Serialize for Vector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.form == Form::Base64 {
            return serializer.serialize_str(&STANDARD.encode(self.values));
        }
        let (values, _) = self.values.as_chunks::<4>();
        let mut list = serializer.serialize_seq(Some(values.len()))?;
        for value in values {
            let value = f32::from_le_bytes(*value);
            if !value.is_finite() {
                let what = "the model computed a value that JSON has no number for; base64 can carry it";
                return Err(S::Error::custom(what));
            }
            list.serialize_element(&value)?;
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Bytes {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn text(vectors: &[Bytes], form: Form) -> String {
        let vectors: Vec<&Bytes> = vectors.iter().collect();
        String::from_utf8(write(&vectors, form, "m", 3).expect("a body")).expect("text")
    }

    #[test]
    fn the_answer_is_openais_to_the_byte() {
        let body = text(&[bytes(&[0.1, -1.0]), bytes(&[1e-7, 0.33333334])], Form::Float);
        let expected = concat!(
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-1.0]},"#,
            r#"{"object":"embedding","index":1,"embedding":[1e-7,0.33333334]}],"#,
            r#""model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}"#
        );
        assert_eq!(body, expected);
    }

    #[test]
    fn base64_is_of_little_endian_f32() {
        let body = text(&[bytes(&[1.0, -2.5])], Form::Base64);
        assert!(body.contains(r#""embedding":"AACAPwAAIMA=""#), "{body}");
    }

    #[test]
    fn every_number_reads_back_as_the_same_f32() {
        // A step that is no multiple of a power of two, over all exponents of both signs.
        let values: Vec<f32> =
            (0..=u32::MAX).step_by(104_729).map(f32::from_bits).filter(|value| value.is_finite()).collect();
        let body = text(&[bytes(&values)], Form::Float);
        let parsed: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let read = parsed["data"][0]["embedding"].as_array().expect("an array");
        assert_eq!(read.len(), values.len());
        for (read, value) in read.iter().zip(&values) {
            assert_eq!(read.as_f64().expect("a number") as f32, *value);
        }
    }

    #[test]
    fn what_is_no_number_is_not_written_as_one() {
        let vector = bytes(&[f32::NAN]);
        let error = write(&[&vector], Form::Float, "m", 1).expect_err("not a number");
        assert!(matches!(error, CallError::Internal { what } if what.contains("base64")));
        assert!(write(&[&vector], Form::Base64, "m", 1).is_ok());
    }
}
