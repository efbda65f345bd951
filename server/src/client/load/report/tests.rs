use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use super::Report;
use crate::client::Address;
use crate::client::load::clock::{Admission, Window};
use crate::client::load::tally::{Finished, Tally};
use crate::client::load::target::{Answer, BatchShare};
use crate::client::load::{Arrivals, Load, LoadOptions, Objective, Percentiles};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A hundred calls in a second, every tenth of them refused, latencies of 1 to 100 ms.
fn report(options: &LoadOptions, window: &Window) -> Report {
    let mut tally = Tally::new(options.objective);
    for n in 1..=100 {
        let batches = vec![BatchShare { rows: 4, own_rows: 1 }];
        let answer = Answer { rows: 1, tokens: 10, queue_us: Some(100), compute_us: Some(200), batches };
        let failed = || tonic::Status::unavailable("the server is shutting down");
        let result = if n % 10 == 0 { Err(failed()) } else { Ok(answer) };
        let (intended, done) = (ms(10 * n), ms(10 * n + n));
        assert_eq!(window.admit(intended), Admission::Measured);
        let in_window = window.contains(done);
        tally.record(Finished { intended, sent: intended, done, in_window, admission: Admission::Measured, result });
    }
    tally.overflow(Admission::Measured);
    Report::new(options, Load::new(options).unwrap(), "m".to_owned(), window, &tally)
}

fn open() -> LoadOptions {
    LoadOptions { rate: Some(100.0), ..LoadOptions::new("127.0.0.1:1".parse::<Address>().unwrap()) }
}

#[test]
fn the_json_has_the_documented_fields() {
    let window = Window::new(Instant::now(), ms(0), Some(ms(2000)), None);
    let json: serde_json::Value = serde_json::from_str(&report(&open(), &window).to_json()).unwrap();
    let mut fields: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    let documented = [
        "api",
        "batch_rows_mean",
        "calls",
        "compute_us",
        "connections",
        "latency_us",
        "lengths",
        "load",
        "model",
        "objective",
        "outcomes",
        "queue_us",
        "rates",
        "seconds",
        "send_lag_us",
        "texts_per_call",
        "tokens_per_call",
    ];
    assert_eq!(fields, documented);
    let load = r#""load":{"mode":"open","rate":100.0,"arrivals":"poisson","outstanding_max":4096,"seed":0}"#;
    assert!(report(&open(), &window).to_json().contains(load), "{json}");
    assert_eq!(json["calls"], serde_json::json!({"sent": 100, "ok": 90, "failed": 10, "refused": 0, "overflow": 1}));
    assert_eq!(
        json["rates"],
        serde_json::json!({"asked": 100.0, "sent": 50.0, "ok": 45.0, "texts": 45.0, "tokens": 450.0})
    );
    assert_eq!(json["outcomes"]["UNAVAILABLE"]["first_message"], "the server is shutting down");
    assert_eq!(json["outcomes"]["OK"]["calls"], 90);
    assert_eq!(json["batch_rows_mean"], 4.0);
    assert_eq!((&json["lengths"], &json["objective"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    assert_eq!((&json["tokens_per_call"]["count"], &json["tokens_per_call"]["p50"]), (&90.into(), &10.into()));
    let latency = json["latency_us"].as_object().unwrap();
    for field in ["count", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"] {
        assert!(latency.contains_key(field), "{field}");
    }
}

#[test]
fn percentiles_are_right_to_three_digits() {
    let window = Window::new(Instant::now(), ms(0), Some(ms(2000)), None);
    let Percentiles { count, p50, p90, p99, max, .. } = report(&open(), &window).latency_us;
    assert_eq!(count, 90);
    for (found, expected) in [(p50, 49_000.0), (p90, 89_000.0), (p99, 99_000.0), (max, 99_000.0)] {
        assert!((found as f64 / expected - 1.0).abs() < 0.03, "{found} for {expected}");
    }
}

#[test]
fn with_a_count_the_time_ends_with_the_last_answer() {
    let window = Window::new(Instant::now(), ms(0), None, NonZeroU64::new(100));
    let report = report(&open(), &window);
    assert_eq!(report.seconds, 1.1);
    assert_eq!(report.rates.sent, 100.0 / 1.1);
}

#[test]
fn the_table_says_the_same() {
    let window = Window::new(Instant::now(), ms(0), Some(ms(2000)), None);
    let table = report(&open(), &window).to_string();
    for line in [
        "open loop, 100 calls/s asked (poisson), 2.0 s measured",
        "  calls       100 sent, 90 ok, 10 failed",
        "  not sent    1 (more than --outstanding-max on their way)",
        "  throughput  45.0 calls/s, 45.0 texts/s, 450 tokens/s",
        "  batches     4.00 rows in the mean",
        "  10 calls ended with UNAVAILABLE, first: the server is shutting down",
    ] {
        assert!(table.lines().any(|found| found == line), "{line}\n{table}");
    }
}

#[test]
fn nothing_measured_is_all_zero_and_no_division() {
    let window = Window::new(Instant::now(), ms(0), None, NonZeroU64::new(1));
    let report = Report::new(&open(), Load::new(&open()).unwrap(), "m".to_owned(), &window, &Tally::new(None));
    assert_eq!((report.seconds, report.rates.ok, report.latency_us), (0.0, 0.0, Percentiles::default()));
    assert_eq!(report.first_error(), None);
}

#[test]
fn the_process_is_named_with_its_parameters() {
    let window = || Window::new(Instant::now(), ms(0), Some(ms(2000)), None);
    let options = LoadOptions { arrivals: Arrivals::Gamma, cv: Some(4.0), ..open() };
    let gamma = report(&options, &window());
    let heading = "open loop, 100 calls/s asked (gamma, cv 4), 2.0 s measured\n";
    assert!(gamma.to_string().starts_with(heading), "{gamma}");
    let json: serde_json::Value = serde_json::from_str(&gamma.to_json()).unwrap();
    let load = serde_json::json!({"mode": "open", "rate": 100.0, "arrivals": "gamma", "cv": 4.0,
        "outstanding_max": 4096, "seed": 0});
    assert_eq!(json["load"], load);
    let mmpp = report(&LoadOptions { arrivals: Arrivals::Mmpp, ..open() }, &window());
    let json: serde_json::Value = serde_json::from_str(&mmpp.to_json()).unwrap();
    assert_eq!((&json["load"]["arrivals"], &json["load"]["low_dwell_s"]), (&"mmpp".into(), &4.5.into()));
}

#[test]
fn calls_are_held_to_the_objective_and_those_not_answered_too() {
    let window = Window::new(Instant::now(), ms(0), Some(ms(2000)), None);
    // 1 to 50 ms without every tenth, of a hundred calls and one that was not sent.
    let report = report(&LoadOptions { objective: Some(ms(50)), ..open() }, &window);
    assert_eq!(report.objective, Some(Objective { us: 50_000, on_time: 45, share: 45.0 / 101.0 }));
    let line = "  on time   44.55 % within 50ms: 45 of 101 calls";
    assert!(report.to_string().lines().any(|found| found == line), "{report}");
}

#[test]
fn the_tokens_of_made_texts_are_in_the_table() {
    let window = Window::new(Instant::now(), ms(0), Some(ms(2000)), None);
    let plain = report(&open(), &window);
    assert!(!plain.to_string().contains("asked of each text"));
    let made = Report { lengths: Some("8-256".to_owned()), ..plain };
    let line = "  tokens      8-256 asked of each text, 10.0 answered to the mean call, p50 10, p99 10, max 10";
    assert!(made.to_string().lines().any(|found| found == line), "{made}");
}
