//! grpc-health-probe, as Kubernetes and others run it.

use tokio::time::timeout;

use super::{client, run};
use crate::process::{PATIENCE, Shoal};
use crate::tools;

/// What it exits with.
const SERVING: i32 = 0;
const UNKNOWN: i32 = 3;
const NOT_SERVING: i32 = 4;

/// The exit code of a probe of a service, or of the whole server.
async fn probe(grpc: &str, service: &str) -> Option<i32> {
    let mut command = client(tools::tool("grpc-health-probe")?);
    // Long enough for any machine: the defaults are a second each.
    command.args(["-connect-timeout", "60s", "-rpc-timeout", "60s", "-addr", grpc, "-service", service]);
    let output = run(&mut command).await;
    Some(output.status.code().unwrap_or_else(|| panic!("{output:?}")))
}

#[tokio::test]
async fn the_server_its_services_and_its_models_serve_and_nothing_else_does() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    for service in
        ["", "startup", "readiness", "liveness", "echo", "shoal.v1.Inference", "inference.GRPCInferenceService"]
    {
        let Some(code) = probe(&shoal.grpc, service).await else { return };
        assert_eq!(code, SERVING, "{service:?}");
    }
    assert_eq!(probe(&shoal.grpc, "ecco").await, Some(UNKNOWN));
}

#[tokio::test]
async fn a_server_whose_workers_are_gone_lives_but_does_not_serve() {
    let folder = tempfile::tempdir().expect("folder");
    let mut command = crate::process::shoal(folder.path());
    command.args(["serve", "--model", "echo", "--workers", "external", "--worker-token", "secret"]);
    command.args(["--grpc-port", "0", "--metrics-port", "0", "--link-port", "0"]);
    let mut shoal = Shoal::spawn(command);
    let dial = shoal.line_with("workers dial ");
    let mut worker = crate::process::shoal(folder.path());
    let address = dial.split_whitespace().last().expect("address");
    worker.args(["worker", "--connect", address, "--worker-token", "secret", "--model", "echo"]);
    let worker = Shoal::spawn(worker);
    let serving = shoal.line_with("gRPC on ");
    let grpc = serving.split([' ', ',']).nth(2).expect("address");
    let Some(code) = probe(grpc, "").await else { return };
    assert_eq!(code, SERVING);
    worker.stop();
    // Health follows, and is asked until it has.
    let follows = async { while probe(grpc, "").await == Some(SERVING) {} };
    timeout(PATIENCE, follows).await.expect("it follows");
    for (service, expected) in [("", NOT_SERVING), ("startup", SERVING), ("echo", NOT_SERVING), ("liveness", SERVING)] {
        assert_eq!(probe(grpc, service).await, Some(expected), "{service:?}");
    }
}
