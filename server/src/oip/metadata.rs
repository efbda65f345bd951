//! What the server and its models are, in the protocol's and in Triton's words.

use std::collections::HashMap;

use shoal_proto::inference::model_config::SchedulingChoice;
use shoal_proto::inference::model_metadata_response::TensorMetadata;
use shoal_proto::inference::{
    ModelConfig, ModelDynamicBatching, ModelInput, ModelMetadataResponse, ModelOutput, ModelParameter,
    ModelTransactionPolicy, ServerMetadataResponse,
};

use super::signature::{Inputs, Signature, TextInput, row_dims, text_inputs};
use crate::call::DataType;
use crate::card::{TYPE_IDS, TensorSpec};

/// Triton's extensions that are offered here. `model_repository` is there whatever model control is, since the index is.
/// `schedule_policy` stands for the request parameters `priority` and `timeout`.
const EXTENSIONS: [&str; 7] =
    ["model_repository", "model_configuration", "schedule_policy", "parameters", "statistics", "trace", "logging"];

/// A tensor as clients see it, without rows.
#[derive(Clone, Copy, Debug)]
struct Shown<'a> {
    name: &'a str,
    data_type: DataType,
    dims: &'a [i64],
    is_optional: bool,
}

/// Which server this is.
pub fn server_metadata() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: "shoal".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.map(String::from).into(),
    }
}

/// A model's inputs and outputs, with the row dimension.
///
/// A text model shows only its texts, and as `[-1, 1]`. It takes `input_ids` as well, and texts as `[n]`, but
/// perf_analyzer sends every input it is shown, optional or not, wants to be told each length that varies, and cannot
/// send an input of rows alone.
pub fn model_metadata(signature: &Signature) -> ModelMetadataResponse {
    let tensors = |shown: Vec<Shown<'_>>| {
        let tensors = shown.into_iter().map(|tensor| TensorMetadata {
            name: tensor.name.to_owned(),
            datatype: tensor.data_type.protocol_name().to_owned(),
            shape: std::iter::once(-1).chain(tensor.dims.iter().copied()).collect(),
        });
        tensors.collect()
    };
    ModelMetadataResponse {
        name: signature.card().name.to_string(),
        versions: vec![signature.card().version.to_string()],
        platform: signature.card().backend.clone(),
        inputs: tensors(inputs(signature)),
        outputs: tensors(outputs(signature)),
    }
}

/// How a model is served, without the row dimension. What a text model takes instead of texts is told in `parameters`,
/// and so are a classifier's labels: Triton has them in a file beside the model, of which it tells only the name.
pub fn model_config(signature: &Signature) -> ModelConfig {
    let input = inputs(signature).into_iter().map(|tensor| ModelInput {
        name: tensor.name.to_owned(),
        data_type: tensor.data_type.config_name().into(),
        dims: tensor.dims.to_vec(),
        // Rows travel unpadded, so that they may differ.
        allow_ragged_batch: tensor.data_type == DataType::Bytes || tensor.dims.contains(&-1),
        optional: tensor.is_optional,
        ..ModelInput::default()
    });
    let output = outputs(signature).into_iter().map(|tensor| ModelOutput {
        name: tensor.name.to_owned(),
        data_type: tensor.data_type.config_name().into(),
        dims: tensor.dims.to_vec(),
        ..ModelOutput::default()
    });
    ModelConfig {
        name: signature.card().name.to_string(),
        platform: signature.card().backend.clone(),
        backend: signature.card().backend.clone(),
        max_batch_size: i32::try_from(signature.batch_rows_max()).unwrap_or(i32::MAX),
        input: input.collect(),
        output: output.collect(),
        scheduling_choice: Some(SchedulingChoice::DynamicBatching(ModelDynamicBatching::default())),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
        parameters: parameters(signature),
        ..ModelConfig::default()
    }
}

fn inputs(signature: &Signature) -> Vec<Shown<'_>> {
    match signature.inputs() {
        Inputs::Text(card) => {
            let texts = text_inputs(card.task).iter();
            let shown = |text: &TextInput| Shown {
                name: text.name,
                data_type: DataType::Bytes,
                dims: &[1],
                is_optional: text.is_optional,
            };
            texts.map(shown).collect()
        }
        Inputs::Tensors { specs, .. } => specs.iter().map(shown).collect(),
    }
}

fn outputs(signature: &Signature) -> Vec<Shown<'_>> {
    signature.outputs().iter().map(shown).collect()
}

fn shown(spec: &TensorSpec) -> Shown<'_> {
    Shown { name: &spec.name, data_type: spec.data_type, dims: row_dims(spec), is_optional: false }
}

fn parameters(signature: &Signature) -> HashMap<String, ModelParameter> {
    let mut parameters = vec![("dtype", signature.card().dtype.to_string())];
    if let Inputs::Text(card) = signature.inputs() {
        parameters.push(("tokens_max", card.tokens_max.to_string()));
        parameters.push(("vocabulary", card.vocabulary.to_string()));
        let mut ids = "input_ids INT64 [-1, -1], optionally with attention_mask INT64 [-1, -1]".to_owned();
        if card.inputs.iter().any(|input| *input.name == *TYPE_IDS) {
            ids += " and token_type_ids INT64 [-1, -1]";
        }
        parameters.push(("inputs_instead_of_text", ids));
        if !card.labels.is_empty() {
            parameters.push(("labels", serde_json::Value::from(card.labels.as_slice()).to_string()));
        }
        if !card.mask_token.is_empty() {
            parameters.push(("mask_token", card.mask_token.clone()));
        }
    }
    let entry = |(name, value): (&str, String)| (name.to_owned(), ModelParameter { string_value: value });
    parameters.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests;
