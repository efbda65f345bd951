//! The newest tritonclient: what its users write, in the scripts beside this file.

use super::{answered, client, succeed};
use crate::process::Shoal;
use crate::tools;

/// Runs a script against a server. `false` where tritonclient is not installed.
async fn script(name: &str, arguments: &[&str]) -> bool {
    let Some(python) = tools::python("tritonclient.grpc") else { return false };
    let mut command = client(python);
    command.arg(format!("server/tests/it/clients/tritonclient/{name}.py")).args(arguments);
    succeed(&mut command).await;
    true
}

#[tokio::test]
async fn tensors_come_back_by_every_way_of_asking() {
    let shoal = Shoal::serve(&["--model", "echo", "--model", "s=synthetic"]);
    if script("tensors", &[&shoal.grpc]).await {
        assert!(answered(&shoal, "echo") > 0 && answered(&shoal, "s") > 0);
    }
}

#[tokio::test]
async fn streams_keep_order_and_ids_and_survive_errors() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    script("streams", &[&shoal.grpc]).await;
}

#[tokio::test]
async fn failures_name_the_field_and_shared_memory_is_refused() {
    let shoal = Shoal::serve(&["--model", "echo", "--model", "s=synthetic"]);
    if script("failures", &[&shoal.grpc]).await {
        let (_, page) = shoal.page("/metrics");
        assert!(!page.contains("shoal_batches_total{model=\"echo\""), "something reached a worker:\n{page}");
    }
}

#[tokio::test]
async fn a_deadline_and_a_cancellation_end_their_calls() {
    // None of its calls is run before the last has come.
    let shoal = Shoal::serve_with("dispatch=hold(4)", &["--model", "s=synthetic:base=1ms"]);
    if script("endings", &[&shoal.grpc, &shoal.metrics]).await {
        let ended = |code: &str| shoal.metric(&format!("shoal_calls_total{{model=\"s\",code=\"{code}\"}}"));
        // A client whose own clock is the first to end a call takes it back.
        assert!(ended("CANCELLED") >= 1.0 && ended("DEADLINE_EXCEEDED") >= 1.0);
        assert_eq!(ended("CANCELLED") + ended("DEADLINE_EXCEEDED"), 3.0);
    }
}

#[tokio::test]
async fn what_is_served_is_described_and_counted() {
    let shoal = Shoal::serve(&["--model", "echo", "--model", "s=synthetic"]);
    script("descriptions", &[&shoal.grpc]).await;
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_only_where_the_server_says_so() {
    for control in ["none", "explicit"] {
        let shoal = Shoal::serve(&["--model", "echo", "--model-control", control]);
        if !script("control", &[&shoal.grpc, control]).await {
            return;
        }
    }
}

#[tokio::test]
async fn texts_and_ids_are_embedded_alike() {
    let Some(home) = crate::minilm::home() else { return };
    let shoal = Shoal::serve_in(&home, &["--model", "minilm"]);
    script("texts", &[&shoal.grpc]).await;
}
