//! The services in front of a real driver whose only worker never takes a batch, so that every call stays open.

use std::time::Duration;

use shoal_proto::v1::inference_client::InferenceClient;
use shoal_proto::v1::inference_server::{Inference as _, InferenceServer};
use shoal_proto::v1::{EmbedRequest, EmbedStreamRequest, TokenizeRequest};
use tokio::time::{Instant, timeout};
use tonic::{Code, Request};

use super::InferenceService;
use super::caller::ClientTimeout;
use crate::access::Scope;
use crate::call::CallError;
use crate::card::Task;
use crate::frontend::by_deadline;
use crate::frontend::testing::{Bench, PATIENCE};

fn inference(bench: &Bench) -> InferenceService {
    InferenceService::new(bench.frontend.clone(), bench.draining.clone())
}

fn embed(id: u32) -> EmbedStreamRequest {
    let request = EmbedRequest { model: "e".into(), texts: vec!["a".into()], ..Default::default() };
    EmbedStreamRequest { id: id.to_string(), request: Some(request) }
}

/// A request whose client waits so long.
fn within<T>(left: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(ClientTimeout { arrived: Instant::now(), left });
    request
}

#[tokio::test]
async fn a_client_that_sent_all_and_leaves_frees_its_calls() {
    let bench = Bench::new().await;
    let mut client = InferenceClient::new(InferenceServer::new(inference(&bench)));
    let answers = client.embed_stream(tokio_stream::iter([embed(1), embed(2)])).await.expect("stream");
    bench.wait_for_calls(2).await;
    drop(answers);
    bench.wait_for_calls(0).await;
}

#[tokio::test]
async fn a_client_that_fills_its_stream_and_leaves_frees_its_calls() {
    let bench = Bench::new().await;
    let mut client = InferenceClient::new(InferenceServer::new(inference(&bench)));
    let answers = client.embed_stream(tokio_stream::iter((0..1000).map(embed))).await.expect("stream");
    bench.wait_for_calls(256).await;
    drop(answers);
    bench.wait_for_calls(0).await;
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let bench = Bench::new().await;
    let mut client = InferenceClient::new(InferenceServer::new(inference(&bench)));
    let request = within(Duration::from_millis(50), tokio_stream::pending());
    let mut answers = client.embed_stream(request).await.expect("stream").into_inner();
    let late = timeout(PATIENCE, answers.message()).await.expect("an end").expect_err("late");
    assert_eq!(late.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn tokenizing_is_bounded_by_the_deadline() {
    let bench = Bench::new().await;
    let message = TokenizeRequest { model: "e".into(), texts: vec!["a ".repeat(4000); 2000], truncate: true };
    let late = inference(&bench).tokenize(within(Duration::ZERO, message)).await.expect_err("late");
    assert_eq!(late.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn an_unnamed_model_may_be_one_that_no_worker_has_loaded_yet() {
    let bench = Bench::new().await;
    let caller = bench.frontend.caller(&http::HeaderMap::new(), None, Scope::default()).expect("a caller");
    let unnamed = bench.frontend.asked("", Task::Classify, &caller).await;
    let error = unnamed.and_then(|model| model.ready_card().cloned()).expect_err("none");
    assert!(matches!(error, CallError::ModelNotReady { model, .. } if model == "slow"));
}

#[tokio::test]
async fn a_load_ends_with_the_server_or_the_clients_patience() {
    let bench = Bench::new().await;
    let impatient = by_deadline(Some(Instant::now()), bench.frontend.load("slow")).await;
    assert_eq!(impatient, Err(CallError::DeadlinePassed));
    let load = bench.frontend.load("slow");
    let drain = async {
        tokio::task::yield_now().await;
        bench.draining.cancel();
    };
    let (loaded, ()) = timeout(PATIENCE, async { tokio::join!(load, drain) }).await.expect("it ends");
    assert_eq!(loaded, Err(CallError::Draining));
}
