//! ghz by reflection alone, with the ready-made settings in `benches/ghz`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{answered, client, repository, succeed};
use crate::process::Shoal;
use crate::tools;

/// What matters here of ghz's report.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    count: u64,
    /// Nanoseconds.
    total: u64,
    end_reason: String,
    #[serde(default)]
    error_distribution: BTreeMap<String, u64>,
    status_code_distribution: BTreeMap<String, u64>,
}

/// Runs ghz with settings of ours, but against this server and with these flags on top. `None` where it is not installed.
async fn ghz(shoal: &Shoal, settings: &str, flags: &[&str]) -> Option<Report> {
    let mut command = client(tools::tool("ghz")?);
    command.args(["--config", &format!("benches/ghz/{settings}.toml"), "--format", "json"]);
    let printed = succeed(command.args(flags).arg(&shoal.grpc)).await;
    let report: Report = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}:\n{printed}"));
    assert_eq!(report.end_reason, if flags.contains(&"--duration") { "timeout" } else { "normal" });
    assert!(report.error_distribution.is_empty(), "{settings}: {:?}", report.error_distribution);
    assert_eq!(report.status_code_distribution, [("OK".to_owned(), report.count)].into(), "{settings}");
    Some(report)
}

#[tokio::test]
async fn a_closed_loop_of_tensors_is_answered_and_counted_in_full() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    for (runs, settings) in (1..).zip(["echo", "echo-raw"]) {
        let Some(report) = ghz(&shoal, settings, &["--total", "400"]).await else { return };
        assert_eq!((report.count, answered(&shoal, "echo")), (400, 400 * runs), "{settings}");
    }
}

#[tokio::test]
async fn compressed_calls_are_answered_and_reflection_with_them() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let Some(report) = ghz(&shoal, "echo-raw", &["--total", "50", "--enable-compression"]).await else { return };
    assert_eq!((report.count, answered(&shoal, "echo")), (50, 50));
}

#[tokio::test]
async fn texts_are_answered_by_either_call() {
    let Some(home) = crate::minilm::home() else { return };
    let shoal = Shoal::serve_in(&home, &["--model", "minilm"]);
    for (runs, settings) in (1..).zip(["minilm", "minilm-raw"]) {
        let Some(report) = ghz(&shoal, settings, &["--total", "40", "--concurrency", "8"]).await else { return };
        assert_eq!((report.count, answered(&shoal, "minilm")), (40, 40 * runs), "{settings}");
    }
}

#[tokio::test]
async fn an_open_loop_keeps_its_rate_and_loses_no_call_at_its_end() {
    let Some(home) = crate::minilm::home() else { return };
    let shoal = Shoal::serve_in(&home, &["--model", "minilm"]);
    let flags = ["--rps", "20", "--duration", "2s", "--skipFirst", "5"];
    let Some(report) = ghz(&shoal, "minilm-open", &flags).await else { return };
    // What it sent before the end was waited for, and all of it was counted by the server.
    assert_eq!(answered(&shoal, "minilm"), report.count + 5);
    // Two seconds of twenty a second: a slow machine may send fewer, none sends more but for the rounding of its start.
    assert!((1..=41).contains(&report.count), "{}", report.count);
    assert!(report.total >= 1_900_000_000, "{}", report.total);
}

#[tokio::test]
async fn binary_payloads_are_what_their_texts_say() {
    let Some(python) = tools::python("grpc_tools.protoc") else { return };
    for name in ["echo", "minilm"] {
        let file = |extension: &str| repository().join(format!("benches/ghz/{name}.{extension}"));
        let mut protoc = client(python.clone());
        protoc.args(["-m", "grpc_tools.protoc", "-I", "proto/proto", "--encode=inference.ModelInferRequest"]);
        protoc.arg("inference/grpc_service.proto");
        let output = super::run(protoc.stdin(std::fs::File::open(file("txtpb")).expect("text"))).await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, std::fs::read(file("bin")).expect("payload"), "{name}");
    }
}
