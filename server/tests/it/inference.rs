//! `shoal.v1`, reflection and health without weights.

use shoal_proto::v1 as wire;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_client::ServerReflectionClient};

use crate::process::Shoal;

#[tokio::test]
async fn models_are_listed_with_their_state() {
    let shoal = Shoal::serve(&["--model", "echo", "--model", "s=synthetic,slo=20ms"]);
    let models =
        shoal.inference().await.list_models(wire::ListModelsRequest {}).await.expect("list").into_inner().models;
    let names: Vec<_> = models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names, ["echo", "s"]);
    assert!(models.iter().all(|model| model.state() == wire::model::State::Ready && model.workers == 1));
    assert_eq!(models[1].slo.as_ref().map(|slo| slo.nanos), Some(20_000_000));
}

#[tokio::test]
async fn a_model_that_embeds_nothing_is_refused_by_name() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let request = wire::EmbedRequest { model: "echo".into(), texts: vec!["a".into()], ..Default::default() };
    let status = shoal.inference().await.embed(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("`model`"), "{}", status.message());
}

#[tokio::test]
async fn health_knows_the_server_its_services_and_its_models() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let mut client = HealthClient::new(shoal.channel().await);
    for service in ["", "shoal.v1.Inference", "inference.GRPCInferenceService", "echo", "liveness"] {
        let status = client.check(HealthCheckRequest { service: service.into() }).await.expect(service).into_inner();
        assert_eq!(status.status(), ServingStatus::Serving, "{service}");
    }
    let unknown = client.check(HealthCheckRequest { service: "nothing".into() }).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_what_is_served() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let mut client = ServerReflectionClient::new(shoal.channel().await);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client.server_reflection_info(tokio_stream::iter([ask])).await.expect("stream").into_inner();
    let answer = answers.message().await.expect("message").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("{answer:?}") };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    let ours = ["grpc.health.v1.Health", "inference.GRPCInferenceService", "shoal.v1.Inference"];
    assert!(ours.iter().all(|name| names.iter().any(|found| found == name)), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("shoal.link")), "{names:?}");
}

#[tokio::test]
async fn a_wrong_class_is_named() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let mut request = tonic::Request::new(crate::oip::floats(&[&[1.0]]));
    request.metadata_mut().insert("x-shoal-class", "urgent".parse().expect("metadata"));
    let status = shoal.oip().await.model_infer(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("x-shoal-class"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_context_reaches_the_worker() {
    let shoal = Shoal::serve(&["--model", "echo", "--log", "debug"]);
    let mut request = tonic::Request::new(crate::oip::floats(&[&[1.0]]));
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    request.metadata_mut().insert("traceparent", parent.parse().expect("metadata"));
    shoal.oip().await.model_infer(request).await.expect("answer");
    let (status, log) = tokio::task::spawn_blocking(|| shoal.stop()).await.expect("stop");
    assert!(status.success());
    assert!(log.iter().any(|line| line.contains(trace)), "{log:#?}");
}
