use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Parser as _;
use indicatif::ProgressBar;

use super::{Api, Arrivals, Load, LoadError, LoadOptions, Report, command, run};
use crate::client::testing::TestServer;

fn options(server: &TestServer) -> LoadOptions {
    LoadOptions { warmup: Duration::ZERO, connections: 1, ..LoadOptions::new(server.address()) }
}

async fn report(options: &LoadOptions) -> Report {
    run(options, &ProgressBar::hidden()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_loop_keeps_exactly_so_many_calls_on_their_way() {
    let server = TestServer::start().await;
    let count = NonZeroU64::new(200);
    let options = LoadOptions { concurrency: 4, count, texts_per_call: 3, ..options(&server) };
    let report = report(&options).await;
    assert_eq!((report.calls.sent, report.calls.ok, report.calls.overflow), (200, 200, 0));
    assert!(server.seen.most.load(Ordering::Relaxed) <= 4);
    assert_eq!(server.seen.calls.load(Ordering::Relaxed), 200);
    assert_eq!(server.seen.rows.load(Ordering::Relaxed), 600);
    assert_eq!(report.batch_rows_mean, Some(8.0));
    assert!(report.rates.tokens > report.rates.texts && report.rates.texts > 2.9 * report.rates.ok);
    assert_eq!(report.latency_us.count, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_sends_what_the_schedule_says() {
    let server = TestServer::start().await;
    let duration = Some(Duration::from_millis(400));
    let warmup = Duration::from_millis(100);
    let arrivals = Arrivals::Constant;
    let options = LoadOptions { rate: Some(250.0), arrivals, duration, warmup, ..options(&server) };
    let report = report(&options).await;
    assert_eq!((report.calls.sent, report.calls.ok), (100, 100));
    assert_eq!(server.seen.calls.load(Ordering::Relaxed), 125, "the warm-up was sent too");
    assert_eq!((report.rates.asked, report.rates.sent), (Some(250.0), 250.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_of_the_server_shows_in_every_call_that_should_have_been_sent() {
    let server = TestServer::start().await;
    let duration = Some(Duration::from_millis(800));
    let arrivals = Arrivals::Constant;
    let model = "stall".to_owned();
    let options = LoadOptions { model, rate: Some(200.0), arrivals, duration, ..options(&server) };
    let report = report(&options).await;
    assert_eq!(report.calls.ok, 160);
    // It stands still for 300 ms, so 60 calls wait 300, 295, 290 … ms: a third of them all, and not one.
    assert!(report.latency_us.max >= 290_000, "{report}");
    assert!(report.latency_us.p90 >= 180_000, "{report}");
    assert!(report.latency_us.mean >= 40_000.0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sent_is_counted() {
    let server = TestServer::start().await;
    let options = LoadOptions {
        model: "hang".to_owned(),
        rate: Some(1000.0),
        arrivals: Arrivals::Constant,
        duration: Some(Duration::from_millis(50)),
        timeout: Duration::from_secs(1),
        outstanding_max: 5,
        ..options(&server)
    };
    let report = report(&options).await;
    assert_eq!((report.calls.sent, report.calls.ok, report.calls.overflow), (5, 0, 45));
    assert_eq!(report.outcomes["DEADLINE_EXCEEDED"].calls, 5);
    assert_eq!(server.seen.with_timeout.load(Ordering::Relaxed), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_counted_by_status() {
    let server = TestServer::start().await;
    let tenant = Some("team-a".to_owned());
    let count = NonZeroU64::new(50);
    let options = LoadOptions { model: "full-half".to_owned(), concurrency: 1, count, tenant, ..options(&server) };
    let report = report(&options).await;
    assert_eq!((report.calls.ok, report.calls.failed, report.calls.refused), (25, 25, 25));
    assert!(report.to_string().contains("25 ok, 25 failed, 25 of them refused for load"), "{report}");
    let full = &report.outcomes["RESOURCE_EXHAUSTED"];
    assert_eq!((full.calls, full.first_message.as_str()), (25, "the model's queue is full"));
    assert_eq!(server.seen.with_tenant.load(Ordering::Relaxed), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speaks_the_open_inference_protocol_with_texts_and_with_numbers() {
    let server = TestServer::start().await;
    let count = NonZeroU64::new(20);
    for model in ["synthetic", "echo"] {
        let api = Api::Infer;
        let options = LoadOptions { model: model.to_owned(), api, count, texts_per_call: 2, ..options(&server) };
        let report = report(&options).await;
        assert_eq!(report.calls.ok, 20, "{model}: {report}");
        assert_eq!(report.batch_rows_mean, Some(8.0));
        assert_eq!(report.queue_us.max, 1000);
    }
}

#[tokio::test]
async fn a_model_that_takes_something_else_is_refused_by_what_it_takes() {
    let server = TestServer::start().await;
    let options = LoadOptions { model: "tokens".to_owned(), api: Api::Infer, ..options(&server) };
    let error = run(&options, &ProgressBar::hidden()).await.unwrap_err();
    assert!(matches!(&error, LoadError::Inputs { found, .. } if found == "input_ids INT64"), "{error}");
    let options = LoadOptions { model: "missing".to_owned(), ..options };
    let error = run(&options, &ProgressBar::hidden()).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot learn what `missing` takes: NotFound"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_run_ends_its_calls() {
    let server = TestServer::start().await;
    let options = LoadOptions { model: "hang".to_owned(), concurrency: 3, ..options(&server) };
    let bar = ProgressBar::hidden();
    let mut running = Box::pin(run(&options, &bar));
    let start = Instant::now();
    while server.seen.now.load(Ordering::Relaxed) < 3 {
        assert!(start.elapsed() < Duration::from_secs(10), "no calls came");
        let _ = tokio::time::timeout(Duration::from_millis(5), &mut running).await;
    }
    drop(running);
    while server.seen.now.load(Ordering::Relaxed) > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "calls were left behind");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verb_fails_when_no_call_succeeded_and_says_why() {
    let server = TestServer::start().await;
    let count = NonZeroU64::new(3);
    let options = LoadOptions { model: "missing".to_owned(), count, json: true, ..options(&server) };
    let mut out = Vec::new();
    let error = command(&options, &mut out).await.unwrap_err().to_string();
    assert_eq!(error, "no call succeeded: NOT_FOUND: model `missing` is not served here");
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(json["calls"]["failed"], 3);
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    options: LoadOptions,
}

#[test]
fn flags_and_defaults_agree() {
    let flags = Cli::try_parse_from(["shoal"]).unwrap().options;
    let defaults = LoadOptions::new(crate::client::Address::DEFAULT.parse().unwrap());
    assert_eq!(format!("{flags:?}"), format!("{defaults:?}"));
    assert_eq!(defaults.duration(), Some(LoadOptions::DURATION));
    assert_eq!(LoadOptions { count: NonZeroU64::new(1), ..defaults }.duration(), None);
    assert!(Cli::try_parse_from(["shoal", "--rate", "5", "--concurrency", "2"]).is_err());
    assert!(Cli::try_parse_from(["shoal", "--trace", "t.csv", "--concurrency", "2"]).is_err());
    assert!(Cli::try_parse_from(["shoal", "--lengths", "5", "--texts", "t.txt"]).is_err());
    assert!(Cli::try_parse_from(["shoal", "--lengths", "9-8"]).is_err());
    let bursty = ["shoal", "--rate", "5", "--arrivals", "code-like", "--lengths", "8-256", "--objective", "50ms"];
    let bursty = Cli::try_parse_from(bursty).unwrap().options;
    assert_eq!((bursty.arrivals, bursty.objective), (Arrivals::CodeLike, Some(Duration::from_millis(50))));
    bursty.check().unwrap();
}

#[test]
fn options_out_of_their_limits_are_named() {
    let options = LoadOptions::new(crate::client::Address::DEFAULT.parse().unwrap());
    options.check().unwrap();
    let wrong = [
        ("rate", LoadOptions { rate: Some(f64::NAN), ..options.clone() }),
        ("rate", LoadOptions { rate: Some(0.0), ..options.clone() }),
        ("concurrency", LoadOptions { concurrency: 0, ..options.clone() }),
        ("connections", LoadOptions { connections: 0, ..options.clone() }),
        ("texts-per-call", LoadOptions { texts_per_call: 0, ..options.clone() }),
        ("outstanding-max", LoadOptions { outstanding_max: 0, ..options.clone() }),
        ("duration", LoadOptions { duration: Some(Duration::ZERO), ..options.clone() }),
        ("timeout", LoadOptions { timeout: Duration::MAX, ..options.clone() }),
        ("model", LoadOptions { api: Api::Infer, ..options.clone() }),
        ("objective", LoadOptions { objective: Some(Duration::ZERO), ..options.clone() }),
        ("rate", LoadOptions { arrivals: Arrivals::CodeLike, ..options.clone() }),
        ("cv", LoadOptions { cv: Some(1.0), rate: Some(1.0), ..options.clone() }),
        ("cv", LoadOptions { arrivals: Arrivals::Gamma, cv: Some(0.0), rate: Some(1.0), ..options.clone() }),
        ("cv", LoadOptions { arrivals: Arrivals::Gamma, cv: Some(f64::NAN), rate: Some(1.0), ..options.clone() }),
        ("trace", LoadOptions { arrivals: Arrivals::Replay, ..options.clone() }),
        ("trace", LoadOptions { trace: Some("t.csv".into()), rate: Some(1.0), ..options.clone() }),
    ];
    for (option, options) in wrong {
        assert_eq!(options.check().unwrap_err().option, option);
    }
}

/// A trace of 21 calls, the first ten 5 ms apart and the others 10 ms, with texts of 10 and 20 tokens in turn.
fn trace() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let line = |n: u32| format!("{},{}\n", f64::from(if n < 10 { 5 * n } else { 10 * n - 50 }) / 1e3, 10 + n % 2 * 10);
    let lines: String = (0..21).map(line).collect();
    std::fs::write(file.path(), format!("at,tokens\n{lines}")).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_is_played_to_its_end_with_its_lengths() {
    let (server, file) = (TestServer::start().await, trace());
    let (trace, trace_column) = (Some(file.path().to_owned()), "at".to_owned());
    let warmup = Duration::from_millis(50);
    let options = LoadOptions { arrivals: Arrivals::Replay, trace, trace_column, warmup, ..options(&server) };
    let played = report(&options).await;
    assert_eq!((played.calls.sent, played.calls.ok), (11, 11), "what comes before 50 ms is warm-up");
    assert_eq!(server.seen.calls.load(Ordering::Relaxed), 21);
    assert!(played.seconds >= 0.1, "{played}");
    assert_eq!((played.tokens_per_call.mean.round(), played.tokens_per_call.max), (15.0, 20));
    assert_eq!(played.lengths.as_deref(), Some("trace"));
    let Load::Open { rate, .. } = played.load else { panic!("{played}") };
    assert!((rate - 20.0 / 0.15).abs() < 1e-6, "{rate}");

    // Twice as fast, and cut by the duration.
    let duration = Some(Duration::from_millis(28));
    let options = LoadOptions { rate: Some(2.0 * rate), warmup: Duration::ZERO, duration, ..options };
    let cut = report(&options).await;
    assert_eq!((cut.calls.sent, cut.seconds, cut.rates.asked), (11, 0.028, Some(2.0 * rate)));

    let options = LoadOptions { warmup: Duration::from_secs(5), ..options };
    let error = run(&options, &ProgressBar::hidden()).await.unwrap_err().to_string();
    assert_eq!(error, "--warmup must be shorter than the trace");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_calls_of_a_trace_are_for_the_models_it_says() {
    let (server, file) = (TestServer::start().await, tempfile::NamedTempFile::new().unwrap());
    let replay = |api, one: &str, other: &str| {
        let line = |n: u32| format!("{},{}\n", f64::from(n) / 1e3, if n.is_multiple_of(4) { one } else { other });
        std::fs::write(file.path(), format!("seconds,model\n{}", (0..40).map(line).collect::<String>())).unwrap();
        let trace = Some(file.path().to_owned());
        LoadOptions { arrivals: Arrivals::Replay, api, trace, ..options(&server) }
    };
    let played = report(&replay(Api::Embed, "missing", "m")).await;
    assert_eq!((played.model.as_str(), played.calls.failed, played.calls.ok), ("missing, m", 10, 30), "{played}");
    // What the flag says goes before it.
    let flagged = report(&LoadOptions { model: "m".to_owned(), ..replay(Api::Embed, "missing", "m") }).await;
    assert_eq!((flagged.model.as_str(), flagged.calls.ok), ("m", 40));
    // One takes numbers, the other texts.
    let played = report(&replay(Api::Infer, "echo", "synthetic")).await;
    assert_eq!((played.model.as_str(), played.calls.ok), ("echo, synthetic", 40), "{played}");
    let options = replay(Api::Infer, "m", "m");
    std::fs::write(file.path(), "seconds\n1\n2\n").unwrap();
    let error = run(&options, &ProgressBar::hidden()).await.unwrap_err().to_string();
    assert_eq!(error, "--model must be a name, since `--api infer` needs one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_made_to_the_lengths_and_the_report_has_what_was_counted() {
    let server = TestServer::start().await;
    let (count, lengths) = (NonZeroU64::new(60), Some("16,128".parse().unwrap()));
    let objective = Some(Duration::from_secs(10));
    let options = LoadOptions { count, lengths, objective, concurrency: 4, ..options(&server) };
    let report = report(&options).await;
    let tokens = &report.tokens_per_call;
    assert_eq!((tokens.count, tokens.max), (60, 128));
    assert!(tokens.mean > 40.0 && tokens.mean < 110.0, "{}", tokens.mean);
    assert_eq!(report.objective.map(|objective| (objective.on_time, objective.share)), Some((60, 1.0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bursty_arrivals_are_sent_as_well() {
    let server = TestServer::start().await;
    for arrivals in [Arrivals::Gamma, Arrivals::Mmpp, Arrivals::CodeLike] {
        let count = NonZeroU64::new(30);
        let report = report(&LoadOptions { rate: Some(2000.0), arrivals, count, ..options(&server) }).await;
        assert_eq!((report.calls.sent, report.calls.ok), (30, 30), "{report}");
    }
}

#[tokio::test]
async fn numbers_have_no_length_in_tokens() {
    let server = TestServer::start().await;
    let lengths = Some("8".parse().unwrap());
    let options = LoadOptions { model: "echo".to_owned(), api: Api::Infer, lengths, ..options(&server) };
    let error = run(&options, &ProgressBar::hidden()).await.unwrap_err().to_string();
    assert_eq!(error, "--lengths must be left out, as the model takes FP32");
}
