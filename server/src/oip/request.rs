//! A ModelInfer request, read against its model: afterwards it cannot be wrong except in what only the tokenizer or the
//! model can tell.

use bytes::Bytes;
use shoal_proto::inference::ModelInferRequest;
use shoal_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};

use super::input::{self, Elements, Input};
use super::options::Options;
use super::quote::Quoted;
use super::response::ReplyForm;
use super::signature::{Inputs, Signature, row_dims};
use super::text::text_payload;
use super::{invalid, not_offered};
use crate::call::{CallError, DataType, Row, RowOptions};
use crate::card::TensorSpec;
use crate::tokenize::Text;

/// Bytes a request's id may have; it is kept as long as the call.
const ID_BYTES_MAX: usize = 1024;

/// How much one request may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Texts.
    pub texts_max: usize,
    /// Rows of tensors.
    pub rows_max: usize,
    /// Elements of one input.
    pub elements_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { texts_max: 2048, rows_max: 8192, elements_max: 1 << 26 }
    }
}

/// A call as a request states it.
#[derive(Clone, Debug)]
pub struct InferRequest {
    /// What to compute.
    pub payload: Payload,
    /// Path of the input that the rows came by, or the first of several: what [`CallError::within`] puts before the index
    /// of a row.
    pub rows_field: String,
    /// What else was asked.
    pub options: Options,
    /// What the answer must look like.
    pub reply: ReplyForm,
}

/// What to compute: at least one row.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Texts, one per row, yet to be tokenised with [`Options::truncate`] and [`Options::row`].
    Texts(Vec<Text>),
    /// Rows ready to run. Of a text model: columns of I32, ids and what segment each is of where the model tells them
    /// apart, without what the mask left out. Of the others: one column per input of the signature, not copied when they came raw. [`Options::row`] is in them already.
    Rows(Vec<Row>),
}

impl Payload {
    /// How many rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Rows(rows) => rows.len(),
        }
    }
}

impl InferRequest {
    /// Reads `request` for the model of `signature`; that this is the model it names is for the caller to know.
    ///
    /// # Errors
    /// [`CallError::UnknownVersion`], [`CallError::InvalidArgument`] with the path of the field, or
    /// [`CallError::Unimplemented`] for shared memory, sequences and classification.
    pub fn parse(request: ModelInferRequest, signature: &Signature, limits: &Limits) -> Result<Self, CallError> {
        signature.check_version(&request.model_version)?;
        if request.id.len() > ID_BYTES_MAX {
            return Err(invalid("id", format!("is longer than {ID_BYTES_MAX} bytes")));
        }
        let options = Options::parse(&request.parameters, signature.inputs())?;
        let outputs = wanted_outputs(&request.outputs, signature.outputs())?;
        let inputs = with_contents(request.inputs, request.raw_input_contents)?;
        let (payload, at) = match signature.inputs() {
            Inputs::Text(card) => text_payload(inputs, card, &options.row, limits)?,
            Inputs::Tensors { specs, tokens_max } => tensor_payload(inputs, specs, tokens_max, limits)?,
        };
        let rows_field = format!("inputs[{at}]");
        Ok(Self { payload, rows_field, options, reply: ReplyForm { id: request.id, outputs } })
    }
}

/// Positions in the signature of the outputs asked for, in the order asked; all when none is named.
fn wanted_outputs(wanted: &[InferRequestedOutputTensor], specs: &[TensorSpec]) -> Result<Vec<usize>, CallError> {
    if wanted.is_empty() {
        return Ok((0..specs.len()).collect());
    }
    let mut positions = Vec::with_capacity(specs.len());
    for (at, output) in wanted.iter().enumerate() {
        let field = |name: &str| format!("outputs[{at}].{name}");
        let Some(position) = specs.iter().position(|spec| *spec.name == *output.name) else {
            let problem = format!("the model has no output {}; it has {}", Quoted(&output.name), name_list(specs));
            return Err(invalid(field("name"), problem));
        };
        if positions.contains(&position) {
            return Err(invalid(field("name"), format!("{} is asked for twice", Quoted(&output.name))));
        }
        let mut names: Vec<&String> = output.parameters.keys().collect();
        names.sort_unstable();
        for name in names {
            match name.as_str() {
                "classification" if input::whole_number(&output.parameters[name]) == Some(0) => {}
                "classification" => return Err(not_offered("classification of an output")),
                name if input::is_shared_memory(name) => return Err(not_offered("an output in shared memory")),
                name => return Err(invalid(field("parameters"), format!("{} is not known", Quoted(name)))),
            }
        }
        positions.push(position);
    }
    Ok(positions)
}

/// Gives each input its raw contents, if the request has any.
fn with_contents(tensors: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Vec<Input>, CallError> {
    if raw.is_empty() {
        return Ok(tensors.into_iter().enumerate().map(|(at, tensor)| Input { at, tensor, raw: None }).collect());
    }
    if let Some(at) = tensors.iter().position(|tensor| tensor.contents.as_ref().is_some_and(|it| !input::is_empty(it)))
    {
        return Err(invalid(format!("inputs[{at}].contents"), "cannot be mixed with raw_input_contents"));
    }
    if raw.len() != tensors.len() {
        return Err(invalid("raw_input_contents", format!("has {} entries for {} inputs", raw.len(), tensors.len())));
    }
    let pairs = tensors.into_iter().zip(raw).enumerate();
    Ok(pairs.map(|(at, (tensor, raw))| Input { at, tensor, raw: Some(raw) }).collect())
}

/// The input of each of `names`, where there is one. Refuses any other, and any twice.
pub(super) fn by_name(inputs: Vec<Input>, names: &[&str]) -> Result<Vec<Option<Input>>, CallError> {
    let mut found: Vec<Option<Input>> = names.iter().map(|_| None).collect();
    for input in inputs {
        let name = Quoted(&input.tensor.name);
        let Some(position) = names.iter().position(|known| *known == input.tensor.name) else {
            let problem = format!("the model has no input {name}; it has {}", names.join(", "));
            return Err(invalid(input.field("name"), problem));
        };
        if found[position].is_some() {
            return Err(invalid(input.field("name"), format!("{name} is given twice")));
        }
        input.check_parameters()?;
        found[position] = Some(input);
    }
    Ok(found)
}

/// The elements of a BYTES input of one element to a row.
pub(super) fn pieces(input: Input, rows_max: usize, limits: &Limits) -> Result<Elements<Vec<Bytes>>, CallError> {
    input.check_data_type(DataType::Bytes)?;
    let row: &[i64] = if input.tensor.shape.len() == 1 { &[] } else { &[1] };
    let (rows, _) = input.check_shape(row, limits.elements_max)?;
    check_rows(&input, rows, rows_max)?;
    input.into_pieces(rows)
}

/// One row per index of the first dimension, with a column for each of `specs`; and the position of the first input.
fn tensor_payload(
    inputs: Vec<Input>,
    specs: &[TensorSpec],
    tokens_max: Option<u32>,
    limits: &Limits,
) -> Result<(Payload, usize), CallError> {
    let names: Vec<&str> = specs.iter().map(|spec| &*spec.name).collect();
    let mut rows: Vec<Row> = Vec::new();
    let mut first_at = 0;
    for (spec, input) in specs.iter().zip(by_name(inputs, &names)?) {
        let Some(input) = input else {
            return Err(invalid("inputs", format!("`{}` is missing", spec.name)));
        };
        let (at, shape_field) = (input.at, input.field("shape"));
        let columns = columns(input, spec, limits)?;
        if rows.is_empty() {
            first_at = at;
            let tokens = token_counts(&columns, spec, tokens_max, &shape_field)?;
            let row = |tokens| Row { columns: Vec::new(), tokens, truncated: false, options: RowOptions::default() };
            rows = tokens.into_iter().map(row).collect();
        } else if rows.len() != columns.len() {
            let problem = format!("has {} rows, and `{}` has {}", columns.len(), names[0], rows.len());
            return Err(invalid(shape_field, problem));
        }
        rows.iter_mut().zip(columns).for_each(|(row, column)| row.columns.push(column));
    }
    Ok((Payload::Rows(rows), first_at))
}

/// What each row costs in tokens: the elements of its first input, where the model counts them, and otherwise nothing.
fn token_counts(
    columns: &[Bytes],
    spec: &TensorSpec,
    tokens_max: Option<u32>,
    shape_field: &str,
) -> Result<Vec<u32>, CallError> {
    let Some(tokens_max) = tokens_max else { return Ok(vec![0; columns.len()]) };
    // Opaque bytes count each.
    let element_bytes = spec.data_type.element_bytes().unwrap_or(1);
    let counts = columns.iter().enumerate().map(|(row, column)| {
        let count = column.len() / element_bytes;
        u32::try_from(count).ok().filter(|count| *count <= tokens_max).ok_or_else(|| {
            invalid(shape_field, format!("row {row} has {count} elements, and the model takes {tokens_max}"))
        })
    });
    counts.collect()
}

/// One column, cut into rows.
fn columns(input: Input, spec: &TensorSpec, limits: &Limits) -> Result<Vec<Bytes>, CallError> {
    let Some(element_bytes) = spec.data_type.element_bytes() else {
        return Ok(pieces(input, limits.rows_max, limits)?.values);
    };
    input.check_data_type(spec.data_type)?;
    let (rows, row_elements) = input.check_shape(row_dims(spec), limits.elements_max)?;
    check_rows(&input, rows, limits.rows_max)?;
    let mut values = input.into_values(spec.data_type, rows * row_elements)?.values;
    // `into_values` has checked that this is all there is.
    Ok((0..rows).map(|_| values.split_to(row_elements * element_bytes)).collect())
}

pub(super) fn check_rows(input: &Input, rows: usize, max: usize) -> Result<(), CallError> {
    if rows <= max {
        return Ok(());
    }
    Err(invalid(input.field("shape"), format!("has {rows} rows, and one call takes {max}")))
}

fn name_list(specs: &[TensorSpec]) -> String {
    specs.iter().map(|spec| &*spec.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
