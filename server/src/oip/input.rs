//! One input tensor of a request: its shape checked, its elements brought into one form, whichever of the two ways the
//! protocol has for them they came by.

use bytes::{BufMut as _, Bytes, BytesMut};
use shoal_proto::inference::model_infer_request::InferInputTensor;
use shoal_proto::inference::{InferParameter, InferTensorContents};

use super::quote::{Quoted, Shape};
use super::{invalid, not_offered};
use crate::call::{CallError, DataType};

/// An input as it stands in the request: where, and with what raw contents, if the request has any.
#[derive(Debug)]
pub(super) struct Input {
    /// Position in `inputs`.
    pub(super) at: usize,
    pub(super) tensor: InferInputTensor,
    pub(super) raw: Option<Bytes>,
}

/// The elements of an input, in row-major order.
#[derive(Debug)]
pub(super) struct Elements<T> {
    /// The field they came by.
    pub(super) path: String,
    pub(super) values: T,
}

impl Input {
    /// Path of one of its fields.
    pub(super) fn field(&self, name: &str) -> String {
        format!("inputs[{}].{name}", self.at)
    }

    /// Refuses another datatype than `expected`.
    pub(super) fn check_data_type(&self, expected: DataType) -> Result<(), CallError> {
        let (given, expected) = (self.tensor.datatype.as_str(), expected.protocol_name());
        if given == expected {
            return Ok(());
        }
        Err(invalid(self.field("datatype"), format!("is {}, and `{}` is {expected}", Quoted(given), self.tensor.name)))
    }

    /// Refuses parameters: none is known for an input but those of shared memory.
    pub(super) fn check_parameters(&self) -> Result<(), CallError> {
        let mut names: Vec<&String> = self.tensor.parameters.keys().collect();
        names.sort_unstable();
        match names.first() {
            None => Ok(()),
            Some(name) if is_shared_memory(name) => Err(not_offered("an input in shared memory")),
            Some(name) => Err(invalid(self.field("parameters"), format!("{} is not known", Quoted(name)))),
        }
    }

    /// Checks the shape against a row's (-1 for any length): it must have one more dimension, the rows, in front.
    ///
    /// Returns the number of rows and of elements in each, both at least 1.
    pub(super) fn check_shape(&self, row: &[i64], elements_max: usize) -> Result<(usize, usize), CallError> {
        let shape = self.tensor.shape.as_slice();
        let wrong = |problem: &str| Err(invalid(self.field("shape"), format!("{} {problem}", Shape(shape))));
        let fits = shape.len() == row.len() + 1
            && shape.iter().skip(1).zip(row).all(|(given, expected)| *expected == -1 || given == expected);
        if shape.iter().any(|dim| *dim < 1) {
            return wrong("has a dimension below 1");
        }
        if !fits {
            let expected: Vec<i64> = std::iter::once(-1).chain(row.iter().copied()).collect();
            return wrong(&format!("is not of the form {}", Shape(&expected)));
        }
        let dims = shape.iter().map(|dim| usize::try_from(*dim).ok());
        let elements = dims.clone().try_fold(1_usize, |product, dim| product.checked_mul(dim?));
        match (dims.clone().next().flatten(), elements) {
            (Some(rows), Some(elements)) if elements <= elements_max => Ok((rows, elements / rows)),
            _ => wrong(&format!("has more than {elements_max} elements")),
        }
    }

    /// The elements of an input of fixed-size elements, little-endian. Raw contents are not copied.
    pub(super) fn into_values(self, data_type: DataType, count: usize) -> Result<Elements<Bytes>, CallError> {
        let Self { at, tensor, raw } = self;
        let Some(raw) = raw else {
            return typed_values(at, tensor.contents.unwrap_or_default(), data_type, count, &tensor.shape);
        };
        let path = raw_field(at);
        // Bytes elements have no size of their own; they are read by `into_pieces`.
        let bytes = data_type.element_bytes().and_then(|bytes| bytes.checked_mul(count));
        if bytes != Some(raw.len()) {
            let (name, shape) = (data_type.protocol_name(), Shape(&tensor.shape));
            let wanted = bytes.map_or_else(|| "more bytes".to_owned(), |bytes| format!("{bytes}"));
            return Err(invalid(path, format!("has {} bytes, and {name} {shape} takes {wanted}", raw.len())));
        }
        if data_type == DataType::Bool && raw.iter().any(|byte| *byte > 1) {
            return Err(invalid(path, "BOOL elements are 0 or 1"));
        }
        Ok(Elements { path, values: raw })
    }

    /// The elements of a BYTES input. Nothing is copied.
    pub(super) fn into_pieces(self, count: usize) -> Result<Elements<Vec<Bytes>>, CallError> {
        let Self { at, tensor, raw } = self;
        let Some(raw) = raw else {
            let contents = tensor.contents.unwrap_or_default();
            check_list(at, &contents, "bytes_contents", DataType::Bytes)?;
            let path = contents_field(at, "bytes_contents");
            check_count(&path, contents.bytes_contents.len(), count, &tensor.shape)?;
            return Ok(Elements { path, values: contents.bytes_contents });
        };
        let path = raw_field(at);
        match split_framed(raw, count) {
            Ok(values) => Ok(Elements { path, values }),
            Err(problem) => Err(invalid(path, problem)),
        }
    }
}

/// Whether a tensor's parameter belongs to the shared-memory extensions.
pub(super) fn is_shared_memory(name: &str) -> bool {
    name.starts_with("shared_memory_")
}

/// The whole number a parameter holds; `None` when it holds something else or does not fit.
pub(super) fn whole_number(parameter: &InferParameter) -> Option<i64> {
    use shoal_proto::inference::infer_parameter::ParameterChoice;
    match parameter.parameter_choice {
        Some(ParameterChoice::Int64Param(value)) => Some(value),
        Some(ParameterChoice::Uint64Param(value)) => i64::try_from(value).ok(),
        _ => None,
    }
}

/// Splits raw BYTES contents: each element behind its length, u32 little-endian.
fn split_framed(mut raw: Bytes, count: usize) -> Result<Vec<Bytes>, String> {
    // Each element takes at least its length's four bytes, so that a wrong count cannot make this reserve much.
    let mut pieces = Vec::with_capacity(count.min(raw.len() / 4));
    for piece in 0..count {
        let Some(length) = raw.first_chunk::<4>().map(|length| u32::from_le_bytes(*length)) else {
            return Err(format!("ends before the length of element {piece}; the shape asks for {count}"));
        };
        let rest = raw.split_off(4);
        match usize::try_from(length) {
            Ok(length) if length <= rest.len() => {
                raw = rest;
                pieces.push(raw.split_to(length));
            }
            _ => return Err(format!("element {piece} is {length} bytes long, and {} are left", rest.len())),
        }
    }
    if raw.is_empty() { Ok(pieces) } else { Err(format!("has {} bytes after element {count}, the last", raw.len())) }
}

/// Elements given in `contents`, brought to little-endian bytes.
fn typed_values(
    at: usize,
    contents: InferTensorContents,
    data_type: DataType,
    count: usize,
    shape: &[i64],
) -> Result<Elements<Bytes>, CallError> {
    let list = match data_type {
        DataType::Bool => "bool_contents",
        DataType::I8 | DataType::I32 => "int_contents",
        DataType::I64 => "int64_contents",
        DataType::U8 | DataType::U32 => "uint_contents",
        DataType::F32 => "fp32_contents",
        DataType::Bytes => "bytes_contents",
        DataType::F16 | DataType::Bf16 => {
            let problem = format!("{} elements can only be given in raw_input_contents", data_type.protocol_name());
            return Err(invalid(format!("inputs[{at}].contents"), problem));
        }
    };
    check_list(at, &contents, list, data_type)?;
    let path = contents_field(at, list);
    let given = list_lengths(&contents).into_iter().find(|(name, _)| *name == list).map_or(0, |(_, length)| length);
    check_count(&path, given, count, shape)?;

    let mut values = BytesMut::with_capacity(count.saturating_mul(data_type.element_bytes().unwrap_or(0)));
    let outside = |value: &dyn std::fmt::Display| {
        invalid(path.clone(), format!("{value} is outside the range of {}", data_type.protocol_name()))
    };
    match data_type {
        DataType::Bool => contents.bool_contents.iter().for_each(|value| values.put_u8((*value).into())),
        DataType::I32 => contents.int_contents.iter().for_each(|value| values.put_i32_le(*value)),
        DataType::I64 => contents.int64_contents.iter().for_each(|value| values.put_i64_le(*value)),
        DataType::U32 => contents.uint_contents.iter().for_each(|value| values.put_u32_le(*value)),
        DataType::F32 => contents.fp32_contents.iter().for_each(|value| values.put_f32_le(*value)),
        DataType::I8 => {
            for value in &contents.int_contents {
                values.put_i8(i8::try_from(*value).map_err(|_| outside(value))?);
            }
        }
        DataType::U8 => {
            for value in &contents.uint_contents {
                values.put_u8(u8::try_from(*value).map_err(|_| outside(value))?);
            }
        }
        // Refused above, or read by `into_pieces`.
        DataType::F16 | DataType::Bf16 | DataType::Bytes => {}
    }
    Ok(Elements { path, values: values.freeze() })
}

/// Refuses elements in any other list than the one of their type.
fn check_list(at: usize, contents: &InferTensorContents, list: &str, data_type: DataType) -> Result<(), CallError> {
    match list_lengths(contents).into_iter().find(|(name, length)| *length > 0 && *name != list) {
        None => Ok(()),
        Some((other, _)) => {
            Err(invalid(contents_field(at, other), format!("{} elements belong in {list}", data_type.protocol_name())))
        }
    }
}

fn check_count(path: &str, given: usize, count: usize, shape: &[i64]) -> Result<(), CallError> {
    if given == count {
        return Ok(());
    }
    Err(invalid(path, format!("has {given} elements, and the shape {} takes {count}", Shape(shape))))
}

/// Whether `contents` holds any element.
pub(super) fn is_empty(contents: &InferTensorContents) -> bool {
    list_lengths(contents).iter().all(|(_, length)| *length == 0)
}

fn list_lengths(contents: &InferTensorContents) -> [(&'static str, usize); 8] {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
}

fn raw_field(at: usize) -> String {
    format!("raw_input_contents[{at}]")
}

fn contents_field(at: usize, list: &str) -> String {
    format!("inputs[{at}].contents.{list}")
}

#[cfg(test)]
mod tests;
