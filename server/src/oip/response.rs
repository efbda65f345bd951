//! Answers in the protocol's form.

use bytes::{BufMut as _, Bytes, BytesMut};
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::inference::model_infer_response::InferOutputTensor;
use shoal_proto::inference::{InferParameter, ModelInferResponse, ModelStreamInferResponse};

use super::signature::{Signature, row_dims};
use crate::call::{Answer, CallError, DataType, Tensor, close_name};
use crate::card::TensorSpec;
use crate::explain::{Asked, wait_numbers};

/// Metadata key by which a client asks, with the value `true`, that the first failure end the stream with a gRPC status
/// instead of being told in the stream.
pub const GRPC_ERROR_METADATA: &str = "triton_grpc_error";

/// What an answer to one request must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyForm {
    /// The request's id, to be echoed.
    pub id: String,
    /// Positions in [`Signature::outputs`] of the outputs wanted, in the order wanted. Never empty.
    pub outputs: Vec<usize>,
}

/// What only the caller of the model knows about the cost of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens computed, after truncation; 0 for models without tokens.
    pub tokens: u64,
    /// Texts that were cut.
    pub truncated: u32,
}

impl ReplyForm {
    /// Puts the rows of `answer` together. Rows are copied once, into one buffer per output; a single row not at all.
    ///
    /// Parameters of the answer, all whole numbers unless said: `queue_us`, `compute_us`, `tokens`, `truncated`,
    /// `batches` and, of the largest batch, `batch_rows`, `batch_tokens`, `batch_close_reason` (text); `dtype` (text). For
    /// who asked for an explanation `explain` (text), what `queue_us` was waited for, `late_rows` and `objective_us`.
    ///
    /// # Errors
    /// [`CallError::Internal`] when the answer is not what the signature promises.
    pub fn response(
        &self,
        signature: &Signature,
        answer: &Answer,
        usage: Usage,
    ) -> Result<ModelInferResponse, CallError> {
        let mut response = ModelInferResponse {
            model_name: signature.card().name.to_string(),
            model_version: signature.card().version.to_string(),
            id: self.id.clone(),
            ..ModelInferResponse::default()
        };
        for position in &self.outputs {
            let spec =
                signature.outputs().get(*position).ok_or_else(|| fault("an output that the model does not have"))?;
            let rows: Vec<&Tensor> =
                answer.rows.iter().map(|row| tensor(row, *position, spec)).collect::<Result<_, _>>()?;
            let first = rows.first().ok_or_else(|| fault("an answer without rows"))?;
            // An element of opaque bytes is one element, whatever the worker calls its shape.
            let dims =
                if spec.data_type == DataType::Bytes { row_dims(spec) } else { signature.shown_shape(&first.shape) };
            if spec.data_type != DataType::Bytes && rows.iter().any(|row| row.shape != first.shape) {
                return Err(fault(&format!("rows of `{}` that differ in shape", spec.name)));
            }
            if dims.len() != row_dims(spec).len() {
                return Err(fault(&format!("rows of `{}` with {} dimensions", spec.name, first.shape.len())));
            }
            response.outputs.push(InferOutputTensor {
                name: spec.name.to_string(),
                datatype: spec.data_type.protocol_name().to_owned(),
                shape: std::iter::once(i64::try_from(rows.len()).unwrap_or(i64::MAX))
                    .chain(dims.iter().copied())
                    .collect(),
                ..InferOutputTensor::default()
            });
            response.raw_output_contents.push(contents(&rows, spec.data_type)?);
        }
        put_usage(&mut response, signature, answer, usage);
        Ok(response)
    }
}

/// An answer on a stream: the one and final answer of its request.
pub fn stream_answer(mut response: ModelInferResponse) -> ModelStreamInferResponse {
    response.parameters.insert("triton_final_response".to_owned(), parameter(ParameterChoice::BoolParam(true)));
    ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
}

/// A failure on a stream that goes on. `id` and `model` are the request's, as far as they are known: clients find the
/// request by its id.
pub fn stream_failure(id: &str, model: &str, error: &CallError, asked: &Asked) -> ModelStreamInferResponse {
    let mut response =
        ModelInferResponse { id: id.to_owned(), model_name: model.to_owned(), ..ModelInferResponse::default() };
    if let Some(refusal) = asked.refusal() {
        response.parameters.insert("explain".to_owned(), text(&refusal.text()));
    }
    ModelStreamInferResponse { error_message: error.to_string(), ..stream_answer(response) }
}

/// The tensor of an output in one row.
fn tensor<'a>(row: &'a [Tensor], position: usize, spec: &TensorSpec) -> Result<&'a Tensor, CallError> {
    let name = &spec.name;
    let tensor = row.get(position).filter(|tensor| tensor.name == *name);
    let tensor = tensor.ok_or_else(|| fault(&format!("a row without output `{name}` in its place")))?;
    if tensor.data_type != spec.data_type {
        return Err(fault(&format!("output `{name}` as {}", tensor.data_type.protocol_name())));
    }
    let elements =
        tensor.shape.iter().try_fold(1_usize, |product, dim| product.checked_mul(usize::try_from(*dim).ok()?));
    let bytes = tensor.data_type.element_bytes();
    let fits = bytes.is_none_or(|bytes| elements.and_then(|it| it.checked_mul(bytes)) == Some(tensor.data.len()));
    if fits { Ok(tensor) } else { Err(fault(&format!("output `{name}` with data that does not fit its shape"))) }
}

/// The rows one after the other, as raw contents hold them.
fn contents(rows: &[&Tensor], data_type: DataType) -> Result<Bytes, CallError> {
    if data_type != DataType::Bytes {
        if let [row] = rows {
            return Ok(row.data.clone());
        }
        let mut joined = BytesMut::with_capacity(rows.iter().map(|row| row.data.len()).sum());
        rows.iter().for_each(|row| joined.extend_from_slice(&row.data));
        return Ok(joined.freeze());
    }
    let mut joined = BytesMut::with_capacity(rows.iter().map(|row| 4 + row.data.len()).sum());
    for row in rows {
        joined.put_u32_le(u32::try_from(row.data.len()).map_err(|_| fault("an element of 4 GiB or more"))?);
        joined.extend_from_slice(&row.data);
    }
    Ok(joined.freeze())
}

fn put_usage(response: &mut ModelInferResponse, signature: &Signature, answer: &Answer, usage: Usage) {
    let mut put = |name: &str, value: u128| {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        response.parameters.insert(name.to_owned(), parameter(ParameterChoice::Int64Param(value)));
    };
    put("queue_us", answer.queue_time.as_micros());
    put("compute_us", answer.compute_time.as_micros());
    put("tokens", usage.tokens.into());
    put("truncated", usage.truncated.into());
    put("batches", answer.batches.len() as u128);
    let largest = answer.batches.iter().max_by_key(|batch| batch.rows);
    if let Some(explanation) = &answer.explanation {
        put("late_rows", explanation.late_rows.into());
        put("objective_us", explanation.objective.as_micros());
        wait_numbers(&explanation.waited).for_each(|(name, time)| put(name, time.as_micros()));
    }
    if let Some(batch) = largest {
        put("batch_rows", batch.rows.into());
        put("batch_tokens", batch.tokens.into());
        response.parameters.insert("batch_close_reason".to_owned(), text(close_name(batch.close)));
    }
    if let Some(explanation) = &answer.explanation {
        response.parameters.insert("explain".to_owned(), text(&explanation.text(answer)));
    }
    response.parameters.insert("dtype".to_owned(), text(&signature.card().dtype));
}

fn text(value: &str) -> InferParameter {
    parameter(ParameterChoice::StringParam(value.to_owned()))
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

/// The worker and this server disagree.
fn fault(what: &str) -> CallError {
    CallError::Internal { what: format!("the worker returned {what}") }
}

#[cfg(test)]
mod tests;
