//! Models that are loaded when they are called, and workers that are there only while somebody calls.

use std::time::Duration;

use shoal_proto::externalscaler::external_scaler_client::ExternalScalerClient;
use shoal_proto::externalscaler::{GetMetricsRequest, IsActiveResponse, ScaledObjectRef};
use shoal_proto::inference::InferParameter;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::v1 as wire;
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};

use crate::oip::floats;
use crate::process::{PATIENCE, Shoal, wait_for};

/// A file that says so.
fn configured(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("shoal.toml");
    std::fs::write(&path, text).expect("file");
    let path = path.to_str().expect("UTF-8").to_owned();
    (folder, path)
}

async fn state(shoal: &Shoal, name: &str) -> wire::model::State {
    let list = shoal.inference().await.list_models(wire::ListModelsRequest {}).await.expect("list").into_inner();
    list.models.iter().find(|model| model.name == name).expect("configured").state()
}

async fn wait_for_state(shoal: &Shoal, name: &str, wanted: wire::model::State) {
    let until = async {
        while state(shoal, name).await != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, until).await.expect("it gets there");
}

async fn next(watch: &mut Streaming<IsActiveResponse>) -> bool {
    timeout(PATIENCE, watch.message()).await.expect("in time").expect("no error").expect("one more").result
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_loaded_when_it_is_called_and_unloaded_when_nobody_does() {
    let (_folder, path) =
        configured("[models.echo]\nload = \"demand\"\nunload_after = \"1s\"\n[models.s]\nsource = \"synthetic\"\n");
    let shoal = Shoal::serve(&["--config", &path]);
    assert_eq!(state(&shoal, "echo").await, wire::model::State::Unloaded);
    // Others are there all the same.
    assert_eq!(state(&shoal, "s").await, wire::model::State::Ready);
    for _ in 0..2 {
        call_at_once(&shoal, 8).await;
        wait_for_state(&shoal, "echo", wire::model::State::Unloaded).await;
    }
    assert_eq!(state(&shoal, "s").await, wire::model::State::Ready);
    let (status, log) = tokio::task::spawn_blocking(|| shoal.stop()).await.expect("stop");
    assert!(status.success());
    // Each time that it was called.
    for event in ["called, so it is loaded", "model ready"] {
        let times = log.iter().filter(|line| line.contains(event) && line.contains("echo")).count();
        assert!(times >= 2, "{event}: {log:#?}");
    }
}

/// So many calls, each of which is answered.
async fn call_at_once(shoal: &Shoal, count: usize) {
    let oip = shoal.oip().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..count {
        let mut oip = oip.clone();
        calls.spawn(async move { oip.model_infer(floats(&[&[1.0]])).await.expect("an answer") });
    }
    calls.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_a_model_that_nobody_loads_ends_with_its_deadline() {
    let external = ["--workers", "external", "--worker-token", "t", "--link-port", "0"];
    let shoal = Shoal::serve(&[&["--model", "echo,load=demand"], &external[..]].concat());
    let infer = "/inference.GRPCInferenceService/ModelInfer";
    let status = shoal.raw_status(infer, &[("grpc-timeout", "300m")], &floats(&[&[1.0]])).await;
    assert_eq!(status, Code::DeadlineExceeded);
    let mut bounded = floats(&[&[1.0]]);
    let timeout = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(300_000)) };
    bounded.parameters.insert("timeout".into(), timeout);
    let status = shoal.oip().await.model_infer(bounded).await.expect_err("nobody loads it");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(shoal.metric("shoal_calls_total{model=\"echo\",code=\"DEADLINE_EXCEEDED\"}"), 2.0);
    // Nor does one without a deadline hold up a stop.
    let mut oip = shoal.oip().await;
    let call = tokio::spawn(async move { oip.model_infer(floats(&[&[1.0]])).await });
    let waits = || (shoal.metric("shoal_streams") > 0.0).then_some(());
    tokio::task::block_in_place(|| wait_for("the call", waits));
    let (stopped, _) = tokio::task::spawn_blocking(|| shoal.stop()).await.expect("stop");
    assert!(stopped.success());
    assert_eq!(call.await.expect("task").expect_err("over").code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn keda_is_told_of_a_call_for_which_there_is_no_worker_yet() {
    let external = ["--workers", "external", "--worker-token", "t", "--link-port", "0"];
    let (folder, path) = configured("[models.echo]\nload = \"demand\"\nunload_after = \"2s\"\n");
    let mut command = crate::process::shoal(folder.path());
    command.args(["serve", "--grpc-port", "0", "--metrics-port", "0", "--scaler-listen", "127.0.0.1:0"]);
    command.args(["--config", &path]).args(external);
    let mut shoal = Shoal::spawn(command);
    let dial = shoal.line_with("workers dial ").split_whitespace().last().expect("address").to_owned();
    shoal.read_addresses();

    let endpoint = Endpoint::from_shared(format!("http://{}", shoal.scaler)).expect("endpoint");
    let mut keda = ExternalScalerClient::new(endpoint.connect().await.expect("connection"));
    let metadata = [("pool", "p"), ("models", "echo"), ("activeSeconds", "1"), ("scalerAddress", "here")];
    let object = ScaledObjectRef {
        name: "shoal-p".into(),
        namespace: "default".into(),
        scaler_metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    };
    let specs = keda.get_metric_spec(object.clone()).await.expect("specs").into_inner().metric_specs;
    let named: Vec<_> = specs.iter().map(|spec| (spec.metric_name.as_str(), spec.target_size_float)).collect();
    assert_eq!(named, [("queued-seconds", 0.5), ("busy-workers", 0.7)]);
    assert!(!keda.is_active(object.clone()).await.expect("answer").into_inner().result);
    let mut watch = keda.stream_is_active(object.clone()).await.expect("stream").into_inner();
    assert!(!next(&mut watch).await);

    for _ in 0..2 {
        let mut oip = shoal.oip().await;
        let call = tokio::spawn(async move { oip.model_infer(floats(&[&[1.0]])).await });
        assert!(next(&mut watch).await);
        assert!(keda.is_active(object.clone()).await.expect("answer").into_inner().result);
        for name in ["queued-seconds", "busy-workers"] {
            let request = GetMetricsRequest { scaled_object_ref: Some(object.clone()), metric_name: name.into() };
            let values = keda.get_metrics(request).await.expect("value").into_inner().metric_values;
            assert_eq!(values.len(), 1);
            assert_eq!(values[0].metric_name, name);
        }
        // This is what KEDA does then.
        let mut worker = crate::process::shoal(folder.path());
        worker.args(["worker", "--connect", &dial, "--worker-token", "t", "--model", "echo", "--pool", "p"]);
        let worker = Shoal::spawn(worker);
        call.await.expect("task").expect("an answer");
        assert_eq!(shoal.metric("shoal_pool_workers{pool=\"p\"}"), 1.0);
        assert!(shoal.metric("shoal_pool_queued_per_worker_seconds{pool=\"p\"}") >= 0.0);
        assert!(!next(&mut watch).await);
        let (ended, _) = tokio::task::spawn_blocking(|| worker.stop()).await.expect("stop");
        assert!(ended.success());
        wait_for_state(&shoal, "echo", wire::model::State::Unloaded).await;
    }

    let unknown = ScaledObjectRef { scaler_metadata: [("models".into(), "ecko".into())].into(), ..object };
    let status = keda.is_active(unknown).await.expect_err("unknown");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert!(status.message().contains("echo"), "{}", status.message());
    let (stopped, _) = tokio::task::spawn_blocking(|| shoal.stop()).await.expect("stop");
    assert!(stopped.success());
    assert!(timeout(PATIENCE, watch.message()).await.is_ok(), "the stream ends with the server");
}
