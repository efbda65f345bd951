//! Explanations of the real thing: of answers and refusals for who asks, and of everything for operators.

use std::process::Output;
use std::time::Duration;

use shoal_proto::inference as wire;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_proto::v1::admin_client::AdminClient;
use shoal_proto::v1::{ExplainRequest, ExplainResponse, WaitReason};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

use crate::oip::texts;
use crate::process::{Hold, PATIENCE, Shoal, shoal, signal};

/// A server whose batches take so long, and hold one row each.
fn serve(base: &str) -> Shoal {
    serve_with("", base)
}

/// The same with these failpoints.
fn serve_with(failpoints: &str, base: &str) -> Shoal {
    let folder = tempfile::tempdir().expect("folder");
    let config = format!(
        "admin_listen = \"127.0.0.1:0\"\n[models.s]\nsource = \"synthetic:base={base}\"\nbatch_rows_max = 1\n\
         policy = \"fixed\"\nqueue_requests_max = 2\nbatch_time_max = \"1h\"\n"
    );
    let path = folder.path().join("shoal.toml");
    std::fs::write(&path, config).expect("a file");
    Shoal::serve_with(failpoints, &["--config", path.to_str().expect("UTF-8")])
}

async fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("endpoint");
    endpoint.connect().await.expect("connection")
}

/// A call of one text, whose caller wants things explained.
fn asking(text: &str) -> Request<wire::ModelInferRequest> {
    let mut request = Request::new(texts("s", &[text]));
    request.metadata_mut().insert("x-shoal-explain", "true".parse().expect("ASCII"));
    request
}

/// A call that runs while others are made.
async fn send(shoal: &Shoal, text: &str) -> tokio::task::JoinHandle<Result<wire::ModelInferResponse, Status>> {
    let (mut client, request) = (shoal.oip().await, asking(text));
    tokio::spawn(async move { client.model_infer(request).await.map(tonic::Response::into_inner) })
}

/// How things stand once `is_so`.
async fn when(shoal: &Shoal, is_so: impl Fn(&ExplainResponse) -> bool) -> ExplainResponse {
    let mut admin = AdminClient::new(channel(&shoal.admin).await);
    let ask = async {
        loop {
            let told = admin.explain(ExplainRequest::default()).await.expect("an explanation").into_inner();
            if is_so(&told) {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ask).await.expect("it comes to that")
}

fn text(answer: &wire::ModelInferResponse) -> &str {
    match answer.parameters.get("explain").and_then(|parameter| parameter.parameter_choice.as_ref()) {
        Some(ParameterChoice::StringParam(text)) => text,
        other => panic!("no explanation: {other:?}"),
    }
}

#[tokio::test]
async fn answers_and_refusals_are_explained_to_who_asks_and_the_queue_to_operators() {
    // A letter takes a millisecond, 500 of them more than four minutes.
    let shoal = serve("1ms+nanos_per_token_squared=1000000");
    let running = send(&shoal, &"a".repeat(500)).await;
    when(&shoal, |told| told.workers.iter().any(|worker| !worker.running.is_empty())).await;
    let (second, third) = (send(&shoal, "b").await, send(&shoal, "c").await);
    let told = when(&shoal, |told| told.calls.len() == 2).await;
    let [model] = told.models.as_slice() else { panic!("one model: {told:?}") };
    assert_eq!((model.name.as_str(), model.waits_for()), ("s", WaitReason::WorkersBusy));
    assert_eq!((told.calls[0].position, told.calls[1].position), (0, 1));
    assert_eq!((told.workers[0].running[0].model.as_str(), told.workers[0].running[0].rows), ("s", 1));

    // What a person sees.
    let page = explain(&["--addr", &shoal.admin]);
    let page = String::from_utf8(page.stdout).expect("UTF-8");
    assert!(page.contains("  s: 2 rows wait for busy workers, the oldest for "), "{page}");
    assert!(page.contains("  local-0: Has run 1 row of s for "), "{page}");
    assert!(page.contains("; 1 row before it.") && page.ends_with("3 calls are without an answer.\n"), "{page}");

    // The queue is full.
    let refused = shoal.oip().await.model_infer(asking("d")).await.expect_err("full");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let why = refused.metadata().get("x-shoal-explain").expect("a trailer").to_str().expect("ASCII");
    assert!(why.starts_with("Refused on arrival: 2 rows are queued for s, its worker is busy"), "{why}");
    let details = refused.get_error_details();
    let info = details.error_info().expect("details");
    assert_eq!((info.reason.as_str(), info.metadata["queued_rows"].as_str()), ("MODEL_QUEUE_FULL", "2"));
    let mut plain = asking("d");
    plain.metadata_mut().remove("x-shoal-explain");
    let plain = shoal.oip().await.model_infer(plain).await.expect_err("full");
    assert!(plain.metadata().get("x-shoal-explain").is_none() && plain.get_error_details().error_info().is_none());

    // The worker is freed of it.
    let before = shoal.workers();
    running.abort();
    when(&shoal, |told| told.open_calls == 2).await;
    before.iter().for_each(|worker| signal(*worker, rustix::process::Signal::KILL));
    for call in [second, third] {
        let answer = call.await.expect("task").expect("an answer");
        let why = text(&answer);
        assert!(why.starts_with("Waited ") && why.contains(" for busy workers"), "{why}");
        assert!(why.contains("Ran without rows of other calls on local-0 for "), "{why}");
    }
    let waited = shoal.metric("shoal_wait_seconds_total{model=\"s\",reason=\"workers_busy\"}");
    assert!(waited > 0.0, "two rows waited for the worker: {waited}");
}

#[tokio::test]
async fn a_drain_can_be_watched_to_its_end() {
    let hold = Hold::new();
    let shoal = serve_with(&format!("results={}", hold.action()), "1ms");
    let running = send(&shoal, "a").await;
    when(&shoal, |told| told.open_calls == 1).await;
    signal(shoal.pid(), rustix::process::Signal::TERM);
    let told = when(&shoal, |told| told.draining).await;
    assert_eq!(told.open_calls, 1);
    hold.release();
    running.await.expect("task").expect("what was there is answered");
    let workers = shoal.workers();
    let (status, _) = shoal.ended(&workers);
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn admin_calls_have_a_listener_of_their_own_with_health_and_without_the_clients_calls() {
    let shoal = serve("1ms");
    let asked = Request::new(ExplainRequest::default());
    let elsewhere = AdminClient::new(shoal.channel().await).explain(asked).await.expect_err("not for clients");
    assert_eq!(elsewhere.code(), Code::Unimplemented);
    let admin = channel(&shoal.admin).await;
    let health = HealthClient::new(admin.clone()).check(HealthCheckRequest { service: "s".into() }).await;
    assert_eq!(health.expect("health").into_inner().status, 1);
    let mut calls = wire::grpc_inference_service_client::GrpcInferenceServiceClient::new(admin);
    assert_eq!(calls.model_infer(texts("s", &["a"])).await.expect_err("not here").code(), Code::Unimplemented);
}

#[tokio::test]
async fn what_cannot_be_explained_is_refused_in_words() {
    let shoal = serve("1ms");
    let mut wrong = asking("a");
    wrong.metadata_mut().insert("x-shoal-explain", "please".parse().expect("ASCII"));
    let wrong = shoal.oip().await.model_infer(wrong).await.expect_err("neither true nor false");
    assert_eq!((wrong.code(), wrong.message()), (Code::InvalidArgument, "`x-shoal-explain`: must be true or false"));
    let unknown = explain(&["--addr", &shoal.admin, "--model", "z"]);
    assert!(!unknown.status.success());
    let error = String::from_utf8_lossy(&unknown.stderr);
    assert!(error.contains("model `z` is not served here"), "{error}");
    let client_port = explain(&["--addr", &shoal.grpc]);
    let error = String::from_utf8_lossy(&client_port.stderr);
    assert!(error.contains("is no address for admin calls"), "{error}");
}

#[test]
fn a_port_in_use_for_admin_calls_is_named() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let address = held.local_addr().expect("address").to_string();
    let home = tempfile::tempdir().expect("folder");
    let ports = ["serve", "--model", "echo", "--grpc-port", "0", "--metrics-port", "0", "--admin-listen", &address];
    let output = shoal(home.path()).args(ports).output().expect("shoal runs");
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(&format!("cannot listen for admin calls on {address}")), "{error}");
    assert!(error.contains("--admin-listen picks another"), "{error}");
}

fn explain(args: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("folder");
    shoal(home.path()).arg("explain").args(args).output().expect("shoal runs")
}
