//! The Open Inference Protocol against the built-in models.

use shoal_proto::inference as wire;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::inference::model_infer_request::InferInputTensor;
use tonic::Code;
use tonic::codec::CompressionEncoding;

use crate::process::Shoal;

/// Rows of floats for `echo`.
pub(crate) fn floats(rows: &[&[f32]]) -> wire::ModelInferRequest {
    let data: Vec<u8> = rows.iter().flat_map(|row| row.iter().flat_map(|value| value.to_le_bytes())).collect();
    wire::ModelInferRequest {
        model_name: "echo".into(),
        id: "a".into(),
        inputs: vec![InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![rows.len() as i64, rows[0].len() as i64],
            ..Default::default()
        }],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}

/// Texts for `synthetic`.
pub(crate) fn texts(model: &str, texts: &[&str]) -> wire::ModelInferRequest {
    let contents = wire::InferTensorContents {
        bytes_contents: texts.iter().map(|text| text.as_bytes().to_vec().into()).collect(),
        ..Default::default()
    };
    wire::ModelInferRequest {
        model_name: model.into(),
        inputs: vec![InferInputTensor {
            name: "text".into(),
            datatype: "BYTES".into(),
            shape: vec![texts.len() as i64],
            contents: Some(contents),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn echo_returns_what_it_is_given() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let mut client = shoal.oip().await;
    let request = floats(&[&[1.0, -2.5], &[3.0, 4.0]]);
    let answer = client.model_infer(request.clone()).await.expect("answer").into_inner();
    assert_eq!((answer.id.as_str(), answer.model_version.as_str()), ("a", "1"));
    assert_eq!(answer.outputs[0].name, "y");
    assert_eq!(answer.outputs[0].shape, [2, 2]);
    assert_eq!(answer.raw_output_contents, request.raw_input_contents);
}

#[tokio::test]
async fn a_payload_larger_than_a_frame_comes_back_whole() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let mut client = shoal.oip().await.max_encoding_message_size(64 << 20);
    let row: Vec<f32> = (0..900_000).map(|value| value as f32).collect();
    let request = floats(&[&row]);
    let answer = client.model_infer(request.clone()).await.expect("answer").into_inner();
    assert_eq!(answer.raw_output_contents, request.raw_input_contents);
}

#[tokio::test]
async fn a_compressed_call_is_read_and_its_size_is_that_of_its_contents() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let (few, many) = (floats(&[&[0.0; 1000]]), floats(&[&vec![0.0; 5 << 20]]));
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        let client = shoal.oip().await.max_encoding_message_size(64 << 20);
        let mut client = client.send_compressed(encoding).accept_compressed(encoding);
        let answer = client.model_infer(few.clone()).await.unwrap_or_else(|status| panic!("{encoding}: {status:?}"));
        // Not asked for compression, though the client takes it: that is the server's choice.
        assert!(answer.metadata().get("grpc-encoding").is_none(), "{encoding}");
        assert_eq!(answer.get_ref().raw_output_contents, few.raw_input_contents);
        // A thousandth of its 20 MiB on the wire, and too large all the same.
        let status = client.model_infer(many.clone()).await.expect_err("too large");
        assert_eq!(status.code(), Code::ResourceExhausted, "{encoding}: {status:?}");
        assert!(status.message().contains("16777216"), "{encoding}: {}", status.message());
    }
}

#[tokio::test]
async fn bad_input_is_refused_by_field_and_reaches_no_worker() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let mut client = shoal.oip().await;
    type Change = fn(&mut wire::ModelInferRequest);
    let cases: [(&str, Code, Change); 7] = [
        ("echoo", Code::NotFound, |request| request.model_name = "echoo".into()),
        ("version", Code::NotFound, |request| request.model_version = "2".into()),
        ("inputs[0].name", Code::InvalidArgument, |request| request.inputs[0].name = "z".into()),
        ("inputs[0].datatype", Code::InvalidArgument, |request| request.inputs[0].datatype = "FP16".into()),
        ("inputs[0].shape", Code::InvalidArgument, |request| request.inputs[0].shape = vec![-1, 2]),
        ("raw_input_contents[0]", Code::InvalidArgument, |request| request.inputs[0].shape = vec![3, 2]),
        ("parameters.triton_x", Code::InvalidArgument, |request| {
            let parameter = wire::InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
            request.parameters.insert("triton_x".into(), parameter);
        }),
    ];
    for (named, code, change) in cases {
        let mut request = floats(&[&[1.0, 2.0]]);
        change(&mut request);
        let status = client.model_infer(request).await.expect_err(named);
        assert_eq!(status.code(), code, "{named}: {status:?}");
        assert!(status.message().contains(named), "{named}: {}", status.message());
    }
    let (_, page) = shoal.page("/metrics");
    assert!(!page.contains("shoal_batches_total{model=\"echo\""), "something reached a worker:\n{page}");
}

#[tokio::test]
async fn a_stream_answers_in_order_and_survives_an_error() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let mut client = shoal.oip().await;
    let mut requests: Vec<_> = (0..20).map(|value| floats(&[&[value as f32]])).collect();
    for (index, request) in requests.iter_mut().enumerate() {
        request.id = index.to_string();
    }
    requests[7].inputs[0].name = "wrong".into();
    let mut stream =
        client.model_stream_infer(tokio_stream::iter(requests.clone())).await.expect("stream").into_inner();
    for (index, request) in requests.iter().enumerate() {
        let answer = stream.message().await.expect("message").expect("an answer");
        let response = answer.infer_response.expect("response");
        assert_eq!(response.id, index.to_string());
        if index == 7 {
            assert!(answer.error_message.contains("inputs[0].name"), "{}", answer.error_message);
        } else {
            assert_eq!(answer.error_message, "");
            assert_eq!(response.raw_output_contents, request.raw_input_contents);
            let last = &response.parameters["triton_final_response"].parameter_choice;
            assert_eq!(*last, Some(ParameterChoice::BoolParam(true)));
        }
    }
    assert!(stream.message().await.expect("end").is_none());
}

#[tokio::test]
async fn models_are_described_and_counted() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let mut client = shoal.oip().await;
    assert!(client.server_live(wire::ServerLiveRequest {}).await.expect("live").get_ref().live);
    assert!(client.server_ready(wire::ServerReadyRequest {}).await.expect("ready").get_ref().ready);
    let server = client.server_metadata(wire::ServerMetadataRequest {}).await.expect("metadata").into_inner();
    assert_eq!(server.name, "shoal");
    assert!(!server.extensions.iter().any(|name| name.contains("shared_memory") || name.contains("sequence")));
    let named = wire::ModelMetadataRequest { name: "echo".into(), version: String::new() };
    let metadata = client.model_metadata(named).await.expect("metadata").into_inner();
    assert_eq!(metadata.inputs[0].shape, [-1, -1]);
    let named = wire::ModelConfigRequest { name: "echo".into(), version: String::new() };
    let config = client.model_config(named).await.expect("config").into_inner().config.expect("config");
    assert_eq!(config.name, "echo");
    assert!(config.max_batch_size > 0);
    for _ in 0..3 {
        client.model_infer(floats(&[&[1.0], &[2.0]])).await.expect("answer");
    }
    let named = wire::ModelStatisticsRequest { name: "echo".into(), version: String::new() };
    let stats = client.model_statistics(named).await.expect("statistics").into_inner().model_stats.remove(0);
    assert_eq!((stats.inference_count, stats.execution_count), (6, 3));
    let times = stats.inference_stats.expect("times");
    let counts = [times.success, times.queue, times.compute_input, times.compute_infer, times.compute_output];
    assert!(counts.iter().all(|entry| entry.as_ref().is_some_and(|entry| entry.count == 3)), "{counts:?}");
    let index = client.repository_index(wire::RepositoryIndexRequest::default()).await.expect("index").into_inner();
    assert_eq!(index.models[0].state, "READY");
}

#[tokio::test]
async fn nothing_can_be_changed_unless_the_server_says_so() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let mut client = shoal.oip().await;
    let unload = wire::RepositoryModelUnloadRequest { model_name: "echo".into(), ..Default::default() };
    assert_eq!(client.repository_model_unload(unload).await.expect_err("refused").code(), Code::PermissionDenied);
    let load = wire::RepositoryModelLoadRequest { model_name: "echo".into(), ..Default::default() };
    assert_eq!(client.repository_model_load(load).await.expect_err("refused").code(), Code::PermissionDenied);
    let setting = wire::trace_setting_request::SettingValue { value: vec!["TIMESTAMPS".into()] };
    let request =
        wire::TraceSettingRequest { settings: [("trace_level".to_owned(), setting)].into(), ..Default::default() };
    assert_eq!(client.trace_setting(request).await.expect_err("refused").code(), Code::PermissionDenied);
    client.trace_setting(wire::TraceSettingRequest::default()).await.expect("reading is free");
    client.log_settings(wire::LogSettingsRequest::default()).await.expect("reading is free");
}

#[tokio::test]
async fn a_model_is_unloaded_and_loaded_again() {
    let shoal = Shoal::serve(&["--model", "echo", "--model-control", "explicit"]);
    let mut client = shoal.oip().await;
    let unload = wire::RepositoryModelUnloadRequest { model_name: "echo".into(), ..Default::default() };
    client.repository_model_unload(unload).await.expect("unloaded");
    let status = client.model_infer(floats(&[&[1.0]])).await.expect_err("not there");
    assert_eq!(status.code(), Code::Unavailable);
    let load = wire::RepositoryModelLoadRequest { model_name: "echo".into(), ..Default::default() };
    client.repository_model_load(load).await.expect("loaded");
    client.model_infer(floats(&[&[1.0]])).await.expect("there again");
}

#[tokio::test]
async fn shared_memory_is_unimplemented() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let mut client = shoal.oip().await;
    let request = wire::SystemSharedMemoryStatusRequest::default();
    let status = client.system_shared_memory_status(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unimplemented);
}
