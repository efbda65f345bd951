//! A valid request, at least one, for every method.

use prost::Message as _;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use shoal_proto::inference::{self as oip, InferParameter, InferTensorContents, ModelInferRequest};
use shoal_proto::v1;

/// One call to make.
#[derive(Clone, Debug)]
pub(super) struct Valid {
    pub(super) method: &'static str,
    /// Encoded; several on a stream.
    pub(super) messages: Vec<Vec<u8>>,
}

pub(super) const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
pub(super) const INFER_STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
pub(super) const EMBED: &str = "/shoal.v1.Inference/Embed";
pub(super) const CLASSIFY: &str = "/shoal.v1.Inference/Classify";
pub(super) const RERANK: &str = "/shoal.v1.Inference/Rerank";
pub(super) const FILL_MASK: &str = "/shoal.v1.Inference/FillMask";
pub(super) const EMBED_STREAM: &str = "/shoal.v1.Inference/EmbedStream";

/// At least one of every method.
pub(super) fn all() -> Vec<Valid> {
    let mut all = simple();
    all.extend([infer_echo(), infer_texts(), infer_ids(), infer_several()].map(|request| one(INFER, &request)));
    all.extend([infer_pairs(), infer_segments(), infer_query(), infer_mask()].map(|request| one(INFER, &request)));
    all.extend([one(CLASSIFY, &classify()), one(RERANK, &rerank()), one(FILL_MASK, &fill_mask())]);
    let stream = [infer_echo(), infer_texts(), infer_ids()];
    all.push(Valid { method: INFER_STREAM, messages: stream.iter().map(|request| request.encode_to_vec()).collect() });
    all.push(one(EMBED, &embed()));
    let calls = ["1", "2"].map(|id| v1::EmbedStreamRequest { id: id.into(), request: Some(embed()) });
    all.push(Valid { method: EMBED_STREAM, messages: calls.iter().map(|call| call.encode_to_vec()).collect() });
    all
}

pub(super) fn embed() -> v1::EmbedRequest {
    v1::EmbedRequest {
        model: "e".into(),
        texts: vec!["a b".into(), "b".into()],
        truncate: true,
        normalize: Some(false),
        dimensions: 2,
    }
}

pub(super) fn classify() -> v1::ClassifyRequest {
    v1::ClassifyRequest {
        model: "c".into(),
        texts: vec!["a b".into(), "c".into()],
        text_pairs: vec!["d".into(), "a".into()],
        truncate: true,
        raw_scores: true,
        top_k: 2,
    }
}

pub(super) fn rerank() -> v1::RerankRequest {
    v1::RerankRequest {
        model: "r".into(),
        query: "a".into(),
        texts: vec!["a b".into(), "c".into(), "d".into()],
        truncate: true,
        raw_scores: true,
        top_n: 2,
        return_text: true,
    }
}

pub(super) fn fill_mask() -> v1::FillMaskRequest {
    v1::FillMaskRequest {
        model: "f".into(),
        texts: vec!["a [MASK] b [MASK]".into(), "[MASK]".into()],
        truncate: true,
        raw_scores: true,
        top_k: 2,
        targets: vec!["a".into(), "b".into(), "c".into()],
    }
}

pub(super) fn infer_echo() -> ModelInferRequest {
    let data: Vec<u8> = [1.5_f32, f32::NAN, f32::INFINITY, -0.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    ModelInferRequest {
        model_name: "echo".into(),
        id: "call".into(),
        parameters: [parameter("priority", ParameterChoice::Int64Param(1))].into(),
        inputs: vec![input("x", "FP32", &[2, 2])],
        outputs: vec![InferRequestedOutputTensor { name: "x".into(), ..Default::default() }],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}

fn infer_texts() -> ModelInferRequest {
    let contents = InferTensorContents { bytes_contents: vec!["a".into(), "b a".into()], ..Default::default() };
    let parameters = [
        parameter("truncate", ParameterChoice::BoolParam(true)),
        parameter("timeout", ParameterChoice::Uint64Param(60_000_000)),
    ];
    ModelInferRequest {
        model_name: "e".into(),
        model_version: "1".into(),
        parameters: parameters.into(),
        inputs: vec![InferInputTensor { contents: Some(contents), ..input("text", "BYTES", &[2, 1]) }],
        ..Default::default()
    }
}

fn infer_ids() -> ModelInferRequest {
    let raw = |ids: [i64; 4]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>().into();
    ModelInferRequest {
        model_name: "e".into(),
        inputs: vec![input("input_ids", "INT64", &[2, 2]), input("attention_mask", "INT64", &[2, 2])],
        raw_input_contents: vec![raw([0, 1, 1, 0]), raw([1, 1, 1, 0])],
        ..Default::default()
    }
}

fn infer_pairs() -> ModelInferRequest {
    infer_strings("c", &[("text", &["a b", "c"]), ("text_pair", &["d", "a"])], ParameterChoice::BoolParam(true), "raw")
}

fn infer_query() -> ModelInferRequest {
    infer_strings("r", &[("query", &["a"]), ("text", &["a b", "c"])], ParameterChoice::BoolParam(false), "raw")
}

fn infer_mask() -> ModelInferRequest {
    infer_strings("f", &[("text", &["a [MASK]", "[MASK] b"])], ParameterChoice::Int64Param(3), "top_k")
}

fn infer_segments() -> ModelInferRequest {
    let raw = |ids: [i64; 4]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>().into();
    ModelInferRequest {
        model_name: "c".into(),
        inputs: ["input_ids", "token_type_ids"].map(|name| input(name, "INT64", &[2, 2])).into(),
        raw_input_contents: vec![raw([4, 5, 6, 7]), raw([0, 1, 0, 0])],
        ..Default::default()
    }
}

fn infer_strings(
    model: &str,
    inputs: &[(&str, &[&str])],
    choice: ParameterChoice,
    parameter_name: &str,
) -> ModelInferRequest {
    let of_texts = |(name, texts): &(&str, &[&str])| {
        let bytes_contents = texts.iter().map(|text| text.as_bytes().to_vec().into()).collect();
        let contents = InferTensorContents { bytes_contents, ..Default::default() };
        InferInputTensor { contents: Some(contents), ..input(name, "BYTES", &[texts.len() as i64, 1]) }
    };
    ModelInferRequest {
        model_name: model.into(),
        parameters: [parameter(parameter_name, choice)].into(),
        inputs: inputs.iter().map(of_texts).collect(),
        ..Default::default()
    }
}

fn infer_several() -> ModelInferRequest {
    ModelInferRequest {
        model_name: "several".into(),
        inputs: vec![input("pixels", "UINT8", &[2, 3]), input("flag", "BOOL", &[2]), input("blob", "BYTES", &[2, 1])],
        raw_input_contents: vec![
            vec![1, 2, 3, 4, 5, 6].into(),
            vec![0, 1].into(),
            [&3_u32.to_le_bytes()[..], b"abc", &0_u32.to_le_bytes()].concat().into(),
        ],
        ..Default::default()
    }
}

/// The methods that compute nothing.
fn simple() -> Vec<Valid> {
    let (name, version) = (|| "e".to_owned(), || "1".to_owned());
    let trace = oip::trace_setting_request::SettingValue { value: vec!["500".into()] };
    let log = oip::log_settings_request::setting_value::ParameterChoice::BoolParam(true);
    let log = oip::log_settings_request::SettingValue { parameter_choice: Some(log) };
    let texts = vec!["a b".into(), "b".into()];
    let dependents = oip::model_repository_parameter::ParameterChoice::BoolParam(false);
    let dependents = oip::ModelRepositoryParameter { parameter_choice: Some(dependents) };
    vec![
        oip_one("ServerLive", &oip::ServerLiveRequest {}),
        oip_one("ServerReady", &oip::ServerReadyRequest {}),
        oip_one("ModelReady", &oip::ModelReadyRequest { name: name(), version: version() }),
        oip_one("ServerMetadata", &oip::ServerMetadataRequest {}),
        oip_one("ModelMetadata", &oip::ModelMetadataRequest { name: name(), version: version() }),
        oip_one("ModelConfig", &oip::ModelConfigRequest { name: name(), version: version() }),
        oip_one("ModelStatistics", &oip::ModelStatisticsRequest { name: name(), version: version() }),
        oip_one("RepositoryIndex", &oip::RepositoryIndexRequest { ready: true, ..Default::default() }),
        oip_one("RepositoryModelLoad", &oip::RepositoryModelLoadRequest { model_name: name(), ..Default::default() }),
        oip_one(
            "RepositoryModelUnload",
            &oip::RepositoryModelUnloadRequest {
                model_name: name(),
                parameters: [("unload_dependents".to_owned(), dependents)].into(),
                ..Default::default()
            },
        ),
        oip_one("SystemSharedMemoryStatus", &oip::SystemSharedMemoryStatusRequest { name: name() }),
        oip_one(
            "SystemSharedMemoryRegister",
            &oip::SystemSharedMemoryRegisterRequest { name: name(), key: "/key".into(), offset: 0, byte_size: 64 },
        ),
        oip_one("SystemSharedMemoryUnregister", &oip::SystemSharedMemoryUnregisterRequest { name: name() }),
        oip_one("CudaSharedMemoryStatus", &oip::CudaSharedMemoryStatusRequest { name: name() }),
        oip_one(
            "CudaSharedMemoryRegister",
            &oip::CudaSharedMemoryRegisterRequest { name: name(), byte_size: 64, ..Default::default() },
        ),
        oip_one("CudaSharedMemoryUnregister", &oip::CudaSharedMemoryUnregisterRequest { name: name() }),
        oip_one(
            "TraceSetting",
            &oip::TraceSettingRequest { settings: [("trace_rate".to_owned(), trace)].into(), model_name: name() },
        ),
        oip_one("LogSettings", &oip::LogSettingsRequest { settings: [("log_error".to_owned(), log)].into() }),
        one("/shoal.v1.Inference/Tokenize", &v1::TokenizeRequest { model: name(), texts, truncate: false }),
        one("/shoal.v1.Inference/ListModels", &v1::ListModelsRequest {}),
    ]
}

fn one(method: &'static str, message: &impl prost::Message) -> Valid {
    Valid { method, messages: vec![message.encode_to_vec()] }
}

fn oip_one(name: &'static str, message: &impl prost::Message) -> Valid {
    // Leaked once per test run: a path that lives as long as the table it stands in.
    one(format!("/inference.GRPCInferenceService/{name}").leak(), message)
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec(), ..Default::default() }
}

fn parameter(name: &str, choice: ParameterChoice) -> (String, InferParameter) {
    (name.to_owned(), InferParameter { parameter_choice: Some(choice) })
}
