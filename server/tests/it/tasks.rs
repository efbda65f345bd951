//! Models of every architecture for every task, tiny ones, through the real server and worker: what transformers computes
//! is what clients get.

mod classify;
mod command;
mod embed;
mod fill_mask;
mod misuse;
mod mixes;
mod rerank;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use shoal_proto::inference as oip;
use shoal_proto::inference::infer_parameter::ParameterChoice;

use crate::process::Shoal;

/// What numbers in float32 may be off by: of 1, or of the largest of their kind.
const TOLERANCE: f32 = 1e-4;

/// What `make.py` beside the checkpoints wrote into `expected.json`.
#[derive(Deserialize)]
struct Tiny<Case> {
    tokens_max: usize,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    mask_token_id: u32,
    #[serde(default)]
    targets: Vec<u32>,
    texts: Vec<Case>,
}

/// A text of a model that scores it, or it and its pair.
#[derive(Deserialize)]
struct Scored {
    text: String,
    text_pair: Option<String>,
    ids: Vec<u32>,
    #[serde(default)]
    token_type_ids: Vec<u32>,
    logits: Vec<f32>,
    scores: Vec<f32>,
}

impl<Case: DeserializeOwned> Tiny<Case> {
    fn read(model: &str) -> Self {
        let json = std::fs::read(folder(model).join("expected.json")).expect("expected.json");
        serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{model}: {error}"))
    }
}

/// The folder of a tiny checkpoint.
fn folder(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/tests/fixtures/tiny").join(model)
}

/// Serves tiny checkpoints in float32, each under the name of its folder.
fn serve(models: &[&str]) -> Shoal {
    serve_as(models, "f32")
}

/// Serves them in `dtype`.
fn serve_as(models: &[&str], dtype: &str) -> Shoal {
    let models: Vec<String> =
        models.iter().map(|model| format!("{model}={},dtype={dtype}", folder(model).display())).collect();
    let arguments: Vec<&str> = models.iter().flat_map(|model| ["--model", model]).collect();
    Shoal::serve(&arguments)
}

/// Holds numbers to those of transformers.
fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= TOLERANCE * largest, "{what}: {found} is not {expected}");
    }
}

/// Positions by falling score.
fn falling(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// A request over the Open Inference Protocol with texts under these names.
fn texts(model: &str, inputs: &[(&str, &[&str])]) -> oip::ModelInferRequest {
    let mut request = oip::ModelInferRequest { model_name: model.into(), ..Default::default() };
    for (name, values) in inputs {
        let mut input = crate::oip::texts(model, values).inputs.remove(0);
        input.name = (*name).into();
        request.inputs.push(input);
    }
    request
}

/// One with rows of ids, all of one length, under these names.
fn numbers(model: &str, inputs: &[(&str, &[u32])]) -> oip::ModelInferRequest {
    let input = |(name, values): &(&str, &[u32])| oip::model_infer_request::InferInputTensor {
        name: (*name).into(),
        datatype: "INT64".into(),
        shape: vec![1, values.len() as i64],
        contents: Some(oip::InferTensorContents {
            int64_contents: values.iter().map(|value| i64::from(*value)).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    oip::ModelInferRequest {
        model_name: model.into(),
        inputs: inputs.iter().map(input).collect(),
        ..Default::default()
    }
}

/// The request with a parameter more.
fn with(mut request: oip::ModelInferRequest, name: &str, value: ParameterChoice) -> oip::ModelInferRequest {
    request.parameters.insert(name.into(), oip::InferParameter { parameter_choice: Some(value) });
    request
}

/// The elements of an output, which has this type and shape.
fn output<const BYTES: usize>(
    answer: &oip::ModelInferResponse,
    name: &str,
    datatype: &str,
    shape: &[i64],
) -> Vec<[u8; BYTES]> {
    let at = answer.outputs.iter().position(|output| output.name == name);
    let at = at.unwrap_or_else(|| panic!("no `{name}` in {:?}", answer.outputs));
    assert_eq!((answer.outputs[at].datatype.as_str(), &answer.outputs[at].shape[..]), (datatype, shape), "{name}");
    let (elements, rest) = answer.raw_output_contents[at].as_chunks();
    assert!(rest.is_empty() && elements.len() as i64 == shape.iter().product::<i64>(), "{name}");
    elements.to_vec()
}

/// The numbers of the output `scores`.
fn scores(answer: &oip::ModelInferResponse, shape: &[i64]) -> Vec<f32> {
    output(answer, "scores", "FP32", shape).into_iter().map(f32::from_le_bytes).collect()
}
