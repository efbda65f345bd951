//! Models and messages for the tests of this module.

use std::sync::Arc;

use bytes::Bytes;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use shoal_proto::inference::{InferParameter, InferTensorContents, ModelInferRequest};

use super::{InferRequest, Limits, Signature};
use crate::call::{CallError, DataType};
use crate::card::{Card, Task, TensorSpec};

/// A card with these tensors.
pub(super) fn card(inputs: &[(&str, DataType, &[i64])], outputs: &[(&str, DataType, &[i64])]) -> Card {
    let specs = |tensors: &[(&str, DataType, &[i64])]| {
        let spec = |(name, data_type, shape): &(&str, DataType, &[i64])| TensorSpec {
            name: (*name).into(),
            data_type: *data_type,
            shape: shape.to_vec(),
        };
        tensors.iter().map(spec).collect()
    };
    Card { inputs: specs(inputs), outputs: specs(outputs), ..Card::testing("model") }
}

/// A model that embeds texts of up to 8 tokens from a vocabulary of 1,000 in 4 dimensions.
pub(super) fn embedder_card() -> Card {
    let tensors = card(&[("ids", DataType::I32, &[-1])], &[("embedding", DataType::F32, &[4])]);
    Card { name: "minilm".into(), task: Task::Embed, dims: 4, tokens_max: 8, vocabulary: 1000, ..tensors }
}

pub(super) fn embedder() -> Signature {
    signature(embedder_card())
}

/// Models that tell segments apart, with outputs as a worker has them.
fn head(task: Task, outputs: &[(&str, DataType, &[i64])]) -> Card {
    let ids = [("input_ids", DataType::I32, &[-1][..]), ("token_type_ids", DataType::I32, &[-1])];
    Card { task, tokens_max: 8, vocabulary: 1000, ..card(&ids, outputs) }
}

/// A classifier of two labels.
pub(super) fn classifier() -> Signature {
    let card = head(Task::Classify, &[("scores", DataType::F32, &[2])]);
    signature(Card { labels: vec!["no \"way\"".into(), "yes".into()], ..card })
}

pub(super) fn reranker() -> Signature {
    signature(head(Task::Rerank, &[("scores", DataType::F32, &[1])]))
}

pub(super) fn masker() -> Signature {
    let outputs = [("token_ids", DataType::I64, &[-1, -1][..]), ("scores", DataType::F32, &[-1, -1])];
    let card = head(Task::FillMask, &outputs);
    signature(Card { inputs: card.inputs[..1].to_vec(), mask_token: "<mask>".into(), ..card })
}

/// `x` FP32 `[n, any]` in, `y` the same out.
pub(super) fn echo() -> Signature {
    signature(card(&[("x", DataType::F32, &[-1])], &[("y", DataType::F32, &[-1])]))
}

/// One input of each kind, two outputs.
pub(super) fn several() -> Signature {
    let inputs: [(&str, DataType, &[i64]); 5] = [
        ("pixels", DataType::U8, &[2, -1]),
        ("flag", DataType::Bool, &[]),
        ("half", DataType::F16, &[1]),
        ("delta", DataType::I8, &[2]),
        ("blob", DataType::Bytes, &[-1]),
    ];
    signature(card(&inputs, &[("label", DataType::Bytes, &[-1]), ("score", DataType::I64, &[])]))
}

pub(super) fn signature(card: Card) -> Signature {
    Signature::new(Arc::new(card), 64).unwrap()
}

/// An input without contents.
pub(super) fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec(), ..Default::default() }
}

/// An input with typed contents.
pub(super) fn typed(name: &str, datatype: &str, shape: &[i64], contents: InferTensorContents) -> InferInputTensor {
    InferInputTensor { contents: Some(contents), ..input(name, datatype, shape) }
}

/// A request with raw contents.
pub(super) fn raw_request(inputs: Vec<InferInputTensor>, raw: Vec<Vec<u8>>) -> ModelInferRequest {
    let raw_input_contents = raw.into_iter().map(Bytes::from).collect();
    ModelInferRequest { inputs, raw_input_contents, ..Default::default() }
}

/// A request with typed contents.
pub(super) fn typed_request(inputs: Vec<InferInputTensor>) -> ModelInferRequest {
    ModelInferRequest { inputs, ..Default::default() }
}

pub(super) fn output(name: &str) -> InferRequestedOutputTensor {
    InferRequestedOutputTensor { name: name.into(), ..Default::default() }
}

pub(super) fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

/// Elements of BYTES as raw contents hold them.
pub(super) fn framed(pieces: &[&[u8]]) -> Vec<u8> {
    let frame = |piece: &&[u8]| [&u32::try_from(piece.len()).unwrap().to_le_bytes()[..], piece].concat();
    pieces.iter().flat_map(frame).collect()
}

pub(super) fn i64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn i32s(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn parse(request: ModelInferRequest, signature: &Signature) -> Result<InferRequest, CallError> {
    InferRequest::parse(request, signature, &Limits { texts_max: 12, rows_max: 16, elements_max: 1024 })
}

/// The field and the problem of a refusal.
pub(super) fn refusal<T: std::fmt::Debug>(result: Result<T, CallError>) -> (String, String) {
    match result {
        Err(CallError::InvalidArgument { field, problem }) => (field, problem),
        other => panic!("not an invalid argument: {other:?}"),
    }
}

/// What is not offered.
pub(super) fn not_offered<T: std::fmt::Debug>(result: Result<T, CallError>) -> String {
    match result {
        Err(CallError::Unimplemented { what }) => what,
        other => panic!("not unimplemented: {other:?}"),
    }
}
