//! `shoal plan`, from configuration, costs and rates to an answer and an exit code.

use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::oip::texts;
use crate::process::{Shoal, shoal, wait_for};

/// 4 ms a batch and half a millisecond a row.
const A: &str = "a=synthetic:base=4ms+per_row=500us+per_token=0,slo=50ms";
/// The same with an objective that no batch meets.
const IMPOSSIBLE: &str = "impossible=synthetic:base=4ms+per_row=500us+per_token=0,slo=4ms";

fn plan_in(home: &Path, args: &[&str]) -> Output {
    shoal(home).arg("plan").args(args).output().expect("shoal runs")
}

fn plan(args: &[&str]) -> Output {
    plan_in(tempfile::tempdir().expect("folder").path(), args)
}

/// What it prints, where it succeeds.
fn answer(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What it says is wrong.
fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// By the laws' closed forms: 1,680 rows a second on one worker, and (β + αλD) / (D - β) workers for λ.
#[test]
fn says_how_many_workers_and_until_when_they_suffice() {
    let told = answer(&plan(&["--model", A, "--rate", "a=1000"]));
    for line in [
        "0.63 workers are needed for evenly spaced arrivals (0.54 if every batch were full),\n",
        "and 1 for 99 % of Poisson arrivals on time.\n",
        "With 1 worker the first objective (a's 50ms) breaks at 1.68 of these rates;\n",
        "up to 1.4 of them 99 % of Poisson arrivals are on time.\n",
        "stated by its source",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let told = answer(&plan(&["--model", A, "--rate", "a=5000", "--workers", "2"]));
    assert!(told.contains("2.8 workers are needed"), "{told}");
    assert!(told.contains("With 2 workers the first objective (a's 50ms) breaks at 0.7 of these rates;\n"), "{told}");
}

#[test]
fn an_objective_below_the_smallest_batch_is_named_with_the_number_and_shows_in_the_exit_code() {
    let output = plan(&["--model", A, "--model", IMPOSSIBLE, "--rate", "a=1000", "--rate", "impossible=1"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = "impossible's objective of 4ms cannot be kept: one row takes 4.5ms by itself. It is left out below.\n";
    assert!(told.contains(line), "{told}");
    assert!(told.contains("breaks at 1.68 of these rates"), "{told}");
}

#[test]
fn rates_come_from_a_file_and_flags_go_over_it() {
    let folder = tempfile::tempdir().expect("folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("path").to_owned()
    };
    let (source, _) = A.trim_start_matches("a=").split_once(',').expect("a source");
    let models = |name: &str| format!("[models.{name}]\nsource = \"{source}\"\nslo = \"50ms\"\n");
    let config = write("shoal.toml", &["a", "b", "c"].map(models).concat());
    let rates = write("rates.toml", "a = 100\nb = { rate = 200, tokens = 40 }\n");
    let output = plan(&["--config", &config, "--rates", &rates, "--rate", "a=300", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&answer(&output)).expect("JSON");
    let models = json["answers"][0]["models"].as_array().expect("models");
    let said: Vec<_> = models.iter().map(|model| (model["rate"].as_f64(), model["tokens"].as_f64())).collect();
    assert_eq!(said, [(Some(300.0), Some(0.0)), (Some(200.0), Some(40.0)), (Some(0.0), Some(0.0))]);
    assert_eq!(json["unsaid"], serde_json::json!(["c"]));
    assert_eq!(json["answers"][0]["needed"]["safe"], 1);
    let wrong = write("wrong.toml", "aa = 100\n");
    let told = error(&plan(&["--config", &config, "--rates", &wrong]));
    assert!(told.contains("--rates: ") && told.contains("no model is called `aa`; did you mean `a`?"), "{told}");
}

#[test]
fn what_is_missing_or_wrong_names_the_flag_and_the_model() {
    let told = error(&plan(&["--model", A, "--rate", "b=3"]));
    assert_eq!(told, "shoal: --rate: no model is called `b`; did you mean `a`?\n");
    let told = error(&plan(&["--model", A]));
    assert!(told.contains("--rate a=100"), "{told}");
    let told = error(&plan(&["--model", "minilm,slo=50ms", "--rate", "minilm=3"]));
    assert!(told.contains("what `minilm` costs is not known") && told.contains("--cost minilm="), "{told}");
    let told = error(&plan(&["--model", A, "--rate", "a=3", "--on", "abacus"]));
    assert_eq!(told, "shoal: --on: nothing was learned on a device called `abacus`\n");
    let told = error(&plan(&["--rate", "a=3"]));
    assert!(told.contains("no model to plan for"), "{told}");
    let usage = plan(&["--model", A, "--rate", "a=many"]);
    assert_eq!(usage.status.code(), Some(2));
    let told = String::from_utf8_lossy(&usage.stderr).into_owned();
    assert!(told.contains("--rate <MODEL=ROWS/S>") && told.contains("`many` must be a number from 0 "), "{told}");
}

#[test]
fn a_cost_that_is_said_is_enough_and_tokens_count() {
    let args = ["--model", "minilm,slo=100ms", "--cost", "minilm=3ms,200us,20us", "--rate", "minilm=100"];
    let told = answer(&plan(&args));
    assert!(told.contains("taken for 128 tokens"), "{told}");
    // 3 ms, 0.2 ms and 128 times 20 µs.
    assert!(told.contains("5.76ms") && told.contains("--cost"), "{told}");
    let told = answer(&plan(&[&args[..], &["--tokens", "minilm=16"]].concat()));
    assert!(told.contains("3.52ms") && !told.contains("taken for"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_says_what_is_asked_and_what_it_learned_is_known_when_it_is_gone() {
    let home = tempfile::tempdir().expect("folder");
    // With time for each probe even on a machine that stands still for a moment: one that took too long would be the last.
    let model = "s=synthetic:base=3ms+per_row=200us+per_token=20us,slo=60s";
    let server = Shoal::serve_in(home.path(), &["--model", model]);
    wait_for("calibration", || {
        (server.metric_or_zero("shoal_batch_cost_seconds{model=\"s\",part=\"batch\"}") > 0.0).then_some(())
    });
    let url = format!("http://{}/metrics", server.metrics);
    // Of one that keeps what it learns elsewhere.
    let elsewhere = tempfile::tempdir().expect("folder");
    let folder = elsewhere.path().to_owned();
    let is_done = std::sync::Arc::new(AtomicBool::new(false));
    let watching = {
        let is_done = is_done.clone();
        tokio::task::spawn_blocking(move || {
            let output = plan_in(&folder, &["--model", model, "--from", &url, "--over", "1s", "--json"]);
            is_done.store(true, Ordering::Release);
            output
        })
    };
    let client = server.oip().await;
    while !is_done.load(Ordering::Acquire) {
        client.clone().model_infer(texts("s", &["seventeen letters"])).await.expect("an answer");
    }
    let output = watching.await.expect("a plan");
    let json: serde_json::Value = serde_json::from_str(&answer(&output)).expect("JSON");
    let seen = &json["answers"][0]["models"][0];
    assert!(seen["rate"].as_f64().expect("a rate") > 0.0, "{seen}");
    assert_eq!(seen["tokens"], 17.0, "{seen}");
    assert_eq!(seen["from"], "server", "{seen}");

    let (status, _) = tokio::task::spawn_blocking(|| server.stop()).await.expect("stop");
    assert!(status.success());
    let output = plan_in(home.path(), &["--model", model, "--rate", "s=10", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&answer(&output)).expect("JSON");
    let answer = &json["answers"][0];
    assert!(answer["device"].as_str().expect("a device").starts_with("cpu"), "{answer}");
    assert_eq!(answer["models"][0]["from"], "learned", "{answer}");
    let one = answer["models"][0]["one_row_us"].as_f64().expect("a time");
    // 3 ms, 0.2 ms and 128 times 20 µs, and what sleeping, the link and a busy machine add.
    assert!(one > 4_000.0, "{one}");
}
