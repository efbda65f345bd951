//! What clients see when things break.

use std::time::Duration;

use rustix::process::Signal;
use shoal_proto::inference as wire;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

use crate::oip::{floats, texts};
use crate::process::{Hold, Shoal, signal, wait_for};

fn hashes(answer: &wire::ModelInferResponse) -> Vec<i64> {
    let bytes = &answer.raw_output_contents[0];
    bytes.chunks_exact(8).map(|chunk| i64::from_le_bytes(chunk.try_into().expect("eight bytes"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_while_it_runs_costs_nothing_but_time() {
    let shoal = Shoal::serve(&["--model", "s=synthetic:base=400ms", "--workers", "2"]);
    let mut client = shoal.oip().await;
    let expected = hashes(client.model_infer(texts("s", &["a", "b"])).await.expect("answer").get_ref());
    let running = tokio::spawn({
        let mut client = client.clone();
        async move { client.model_infer(texts("s", &["a", "b"])).await }
    });
    let workers = shoal.wait_for_workers(2, &[]);
    wait_for("the batch to run", || (shoal.metric("shoal_rows_in_flight") > 0.0).then_some(()));
    for pid in &workers {
        signal(*pid, Signal::KILL);
    }
    let answer = running.await.expect("task").expect("answer").into_inner();
    assert_eq!(hashes(&answer), expected);
    shoal.wait_for_workers(2, &workers);
    let (status, _) = shoal.stop();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_ends_its_worker_is_poison_and_its_mates_are_answered() {
    let shoal = Shoal::serve(&["--model", "s=synthetic:base=50ms+faults"]);
    let client = shoal.oip().await;
    // One batch runs while the others gather behind it.
    let inputs = ["first", "one", "two", "!exit 3", "three"];
    let calls = inputs.map(|text| {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(texts("s", &[text])).await })
    });
    for (text, call) in inputs.iter().zip(calls) {
        let outcome = call.await.expect("task");
        if *text == "!exit 3" {
            let status = outcome.expect_err("poison");
            assert_eq!(status.code(), Code::Internal);
            let details = status.get_error_details();
            assert_eq!(details.error_info().expect("details").reason, "POISON");
        } else {
            outcome.unwrap_or_else(|status| panic!("{text}: {status:?}"));
        }
    }
    client.clone().model_infer(texts("s", &["after"])).await.expect("the worker is back");
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_that_comes_again_is_refused_at_once_and_costs_no_worker() {
    let shoal = Shoal::serve(&["--model", "s=synthetic:base=1ms+faults"]);
    let mut client = shoal.oip().await;
    let first = shoal.workers();
    let status = client.model_infer(texts("s", &["!abort"])).await.expect_err("poison");
    assert_eq!(status.get_error_details().error_info().expect("details").reason, "POISON");
    let workers = shoal.wait_for_workers(1, &first);
    client.model_infer(texts("s", &["another"])).await.expect("the worker is back");
    for again in [&["!abort"][..], &["a mate", "!abort"]] {
        let status = client.model_infer(texts("s", again)).await.expect_err("quarantined");
        assert_eq!(status.code(), Code::Internal);
        let details = status.get_error_details();
        let info = details.error_info().expect("details");
        assert_eq!(info.reason, "POISON");
        assert!(info.metadata.contains_key("held_seconds") && info.metadata.contains_key("left_seconds"), "{info:?}");
        let field = format!("inputs[0][{}]", again.len() - 1);
        assert!(status.message().contains(&field), "{}", status.message());
    }
    client.model_infer(texts("s", &["!sleep 1ms"])).await.expect("another input is fine");
    assert_eq!(shoal.workers(), workers, "the worker ended for a known input");
    assert_eq!(shoal.metric("shoal_rejects_total{model=\"s\",reason=\"quarantined\"}"), 2.0);
    assert_eq!(shoal.metric("shoal_quarantined_inputs{model=\"s\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_fails_alone_leaves_its_mates() {
    let shoal = Shoal::serve(&["--model", "s=synthetic:base=50ms+faults"]);
    let client = shoal.oip().await;
    let inputs = ["first", "one", "!fail cannot say that", "two", "!break"];
    let calls = inputs.map(|text| {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(texts("s", &[text])).await })
    });
    for (text, call) in inputs.iter().zip(calls) {
        match (*text, call.await.expect("task")) {
            ("!fail cannot say that", outcome) => {
                let status = outcome.expect_err("failed");
                assert_eq!(status.code(), Code::InvalidArgument);
                assert!(status.message().contains("cannot say that"), "{}", status.message());
                assert!(status.message().contains("inputs[0][0]"), "{}", status.message());
            }
            ("!break", outcome) => assert_eq!(outcome.expect_err("broken").code(), Code::Internal),
            (text, outcome) => drop(outcome.unwrap_or_else(|status| panic!("{text}: {status:?}"))),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_too_large_for_memory_runs_in_parts() {
    let shoal = Shoal::serve(&["--model", "s=synthetic:base=1ms+memory_rows=4"]);
    let mut client = shoal.oip().await;
    let inputs: Vec<String> = (0..32).map(|index| format!("text {index}")).collect();
    let refs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let together = hashes(client.model_infer(texts("s", &refs)).await.expect("answer").get_ref());
    assert_eq!(together.len(), 32);
    let alone = hashes(client.model_infer(texts("s", &[refs[31]])).await.expect("answer").get_ref());
    assert_eq!(alone[0], together[31]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_kept_and_frees_the_call() {
    let shoal = Shoal::serve(&["--model", "s=synthetic:base=300ms"]);
    let mut client = shoal.oip().await;
    // Without a clock in the client, which would fire first with a code of its library's choosing.
    let path = "/inference.GRPCInferenceService/ModelInfer";
    let code = shoal.raw_status(path, &[("grpc-timeout", "50m")], &texts("s", &["a"])).await;
    assert_eq!(code, Code::DeadlineExceeded);
    wait_for("the queue to be empty", || (shoal.metric("shoal_calls_in_flight") == 0.0).then_some(()));
    client.model_infer(texts("s", &["b"])).await.expect("the server is fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_leaves_nothing_behind() {
    let shoal = Shoal::serve(&["--model", "s=synthetic:base=1ms+faults"]);
    let client = shoal.oip().await;
    let workers = shoal.workers();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.model_infer(texts("s", &["!sleep 30s"])).await })
        })
        .collect();
    wait_for("the calls to arrive", || (shoal.metric("shoal_calls_in_flight") == 20.0).then_some(()));
    calls.iter().for_each(|call| call.abort());
    wait_for("the calls to be gone", || (shoal.metric("shoal_calls_in_flight") == 0.0).then_some(()));
    assert_eq!(shoal.metric("shoal_calls_total{model=\"s\",code=\"CANCELLED\"}"), 20.0);
    // Rather than wait for it to wake up.
    workers.iter().for_each(|pid| signal(*pid, Signal::KILL));
    client.clone().model_infer(texts("s", &["b"])).await.expect("the server is fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_what_is_open_and_leaves_no_process() {
    let hold = Hold::new();
    let arguments = ["--model", "s=synthetic:base=1ms", "--drain-time-max", "10min"];
    let shoal = Shoal::serve_with(&format!("results=1*{}", hold.action()), &arguments);
    let client = shoal.oip().await;
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.model_infer(texts("s", &["a"])).await })
        })
        .collect();
    // One of them is on its way back, or some are, and the others wait.
    wait_for("the calls to arrive", || (shoal.metric("shoal_calls_in_flight") == 4.0).then_some(()));
    let workers = shoal.workers();
    signal(shoal.pid(), Signal::TERM);
    shoal.wait_for_log("stopping: no new calls");
    hold.release();
    let (status, log) = tokio::task::spawn_blocking(move || shoal.ended(&workers)).await.expect("stop");
    assert!(status.success(), "{status:?}\n{log:#?}");
    for call in calls {
        call.await.expect("task").expect("an answer in spite of the stop");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_refused_with_a_time_to_come_back() {
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("shoal.toml");
    std::fs::write(
        &config,
        "[models.s]\nsource = \"synthetic:base=300ms\"\nqueue_requests_max = 2\nbatch_rows_max = 1\n",
    )
    .expect("config");
    let shoal = Shoal::serve(&["--config", config.to_str().expect("path")]);
    let client = shoal.oip().await;
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.model_infer(texts("s", &["a"])).await })
        })
        .collect();
    let (mut answered, mut refused) = (0, 0);
    for call in calls {
        match call.await.expect("task") {
            Ok(_) => answered += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                let details = status.get_error_details();
                let after = details.retry_info().expect("details").retry_delay.expect("delay");
                assert!(after > Duration::ZERO && after < Duration::from_secs(60), "{after:?}");
                refused += 1;
            }
        }
    }
    assert!(answered >= 2 && refused >= 1, "{answered} answered, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_elsewhere_dials_in_with_the_token() {
    let folder = tempfile::tempdir().expect("folder");
    let mut command = crate::process::shoal(folder.path());
    command.args(["serve", "--model", "echo", "--workers", "external", "--worker-token", "secret"]);
    command.args(["--grpc-port", "0", "--metrics-port", "0", "--link-port", "0"]);
    let mut shoal = Shoal::spawn(command);
    let dial = shoal.line_with("workers dial ");
    let address = dial.split_whitespace().last().expect("address").to_owned();
    let mut wrong = crate::process::shoal(folder.path());
    wrong.args(["worker", "--connect", &address, "--worker-token", "guess", "--model", "echo"]);
    let output = wrong.output().expect("a worker");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("refused"), "{output:?}");
    let mut worker = crate::process::shoal(folder.path());
    worker.args(["worker", "--connect", &address, "--worker-token", "secret", "--model", "echo"]);
    let worker = Shoal::spawn(worker);
    let serving = shoal.line_with("gRPC on ");
    shoal.grpc = serving.split([' ', ',']).nth(2).expect("address").to_owned();
    shoal.oip().await.model_infer(floats(&[&[1.0]])).await.expect("answer");
    let (status, _) = worker.stop();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_does_not_hold_up_a_stop() {
    // Longer than anybody here waits for the end.
    let shoal = Shoal::serve(&["--model", "echo", "--drain-time-max", "10min"]);
    let silent = std::net::TcpStream::connect(&shoal.grpc).expect("connection");
    // One that spoke once and is now deaf: its runtime does not run while the server stops.
    let runtime = tokio::task::spawn_blocking({
        let address = format!("http://{}", shoal.grpc);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            let client = runtime.block_on(async {
                let mut client = HealthClient::new(tonic::transport::Endpoint::from_shared(address)?.connect().await?);
                client.check(HealthCheckRequest { service: "liveness".into() }).await.expect("answer");
                Ok::<_, tonic::transport::Error>(client)
            });
            (runtime, client.expect("client"))
        }
    });
    let deaf = runtime.await.expect("task");
    let (status, _) = tokio::task::spawn_blocking(|| shoal.stop()).await.expect("stop");
    assert!(status.success());
    drop(silent);
    tokio::task::spawn_blocking(move || drop(deaf)).await.expect("dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_and_reflection_left_open_do_not_hold_up_a_stop() {
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_client::ServerReflectionClient};
    let shoal = Shoal::serve(&["--model", "echo", "--drain-time-max", "10min"]);
    let channel = shoal.channel().await;
    let mut health = HealthClient::new(channel.clone());
    let mut watch = health.watch(HealthCheckRequest::default()).await.expect("watch").into_inner();
    watch.message().await.expect("status").expect("one");
    let idle = tokio_stream::pending::<ServerReflectionRequest>();
    let reflection = ServerReflectionClient::new(channel).server_reflection_info(idle).await.expect("stream");
    let (status, _) = tokio::task::spawn_blocking(|| shoal.stop()).await.expect("stop");
    assert!(status.success());
    drop((watch, reflection));
}
