//! perf_analyzer, whose load shapes and reports users know from Triton.

use std::collections::HashMap;
use std::path::Path;

use super::{answered, client, succeed};
use crate::process::Shoal;
use crate::tools;

/// Windows of so many calls, however long they take: in one of a fixed time a slow machine may answer nothing.
fn windows_of(calls: &'static str) -> [&'static str; 4] {
    ["--measurement-mode", "count_windows", "--measurement-request-count", calls]
}

/// One level of load, as its row in the CSV says. Times are in microseconds.
struct Level {
    load: f64,
    row: HashMap<String, f64>,
}

impl Level {
    fn value(&self, column: &str) -> f64 {
        *self.row.get(column).unwrap_or_else(|| panic!("no column {column} in {:?}", self.row))
    }
}

/// Counts of one level, as printed.
#[derive(Debug, Default)]
struct Counts {
    client_requests: u64,
    server_inferences: u64,
    server_requests: u64,
}

/// Measures with these arguments, and checks what every measurement must show. `None` where it is not installed.
async fn measure(shoal: &Shoal, model: &str, rows: u64, arguments: &[&str]) -> Option<Vec<Level>> {
    let folder = tempfile::tempdir().expect("folder");
    let report = folder.path().join("report.csv");
    let mut command = client(tools::tool("perf_analyzer")?);
    command.args(["-i", "grpc", "-u", &shoal.grpc, "-m", model, "-b", &rows.to_string()]).args(arguments);
    // Whether it is steady says something of the machine, not of Shoal.
    command.args(["--stability-percentage", "999", "--max-trials", "3", "--verbose-csv", "-f"]).arg(&report);
    let before = answered(shoal, model);
    let printed = succeed(&mut command).await;
    let (levels, counts) = (levels(&report), counts(&printed));
    assert_eq!(levels.len(), counts.len(), "{printed}");
    for level in &levels {
        check_times(level);
    }
    // The server's window is not quite the client's: a machine that stands still for a moment makes a call in one of them
    // alone look slow. It does not at every level.
    assert!(levels.iter().any(|level| server_time(level) <= 1.25 * level.value("Avg latency")) || levels.len() == 1);
    for counted in &counts {
        // perf_analyzer does not add up what the server says of queue, input, infer and output unless their counts are
        // the same; it prints no server at all then. Rows are counted apart, so that a call on each thread may be in the
        // one and not yet in the other where a window begins or ends.
        let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        let apart = counted.server_inferences.abs_diff(rows * counted.server_requests);
        assert!(apart <= 2 * rows * threads, "{printed}");
        assert!(counted.client_requests > 0 && counted.server_requests > 0, "{printed}");
    }
    let measured: u64 = counts.iter().map(|counted| counted.client_requests).sum();
    assert!(answered(shoal, model) - before >= measured, "{printed}");
    Some(levels)
}

/// A call's, by what the server says.
fn server_time(level: &Level) -> f64 {
    let parts = ["Server Queue", "Server Compute Input", "Server Compute Infer", "Server Compute Output"];
    parts.iter().map(|column| level.value(column)).sum()
}

fn check_times(level: &Level) {
    let (server, client) = (server_time(level), level.value("Avg latency"));
    // In the same unit, at least.
    assert!(server > 0.0 && server <= 100.0 * client, "{:?}", level.row);
    let percentiles = ["p50 latency", "p90 latency", "p95 latency", "p99 latency"].map(|column| level.value(column));
    assert!(percentiles.is_sorted() && percentiles[0] > 0.0, "{percentiles:?}");
    assert!(level.value("Inferences/Second") > 0.0);
}

/// The rows of a report, lightest load first.
fn levels(report: &Path) -> Vec<Level> {
    let text = std::fs::read_to_string(report).expect("a report");
    let mut lines = text.lines();
    let columns: Vec<&str> = lines.next().expect("a head").split(',').collect();
    let number = |field: &str| field.parse().unwrap_or_else(|_| panic!("`{field}` is no number in\n{text}"));
    let level = |line: &str| {
        let values: Vec<f64> = line.split(',').map(number).collect();
        assert_eq!(values.len(), columns.len(), "{text}");
        Level { load: values[0], row: columns.iter().map(|name| name.to_string()).zip(values).collect() }
    };
    let mut levels: Vec<Level> = lines.map(level).collect();
    levels.sort_by(|a, b| a.load.total_cmp(&b.load));
    levels
}

/// What is printed of each level, in order.
fn counts(printed: &str) -> Vec<Counts> {
    let mut counts: Vec<Counts> = Vec::new();
    for line in printed.lines() {
        let Some((name, value)) = line.trim().split_once(": ") else { continue };
        if name == "Request count" {
            counts.push(Counts::default());
        }
        let (Ok(value), Some(level)) = (value.parse(), counts.last_mut()) else { continue };
        match name {
            "Request count" => level.client_requests = value,
            "Inference count" => level.server_inferences = value,
            "Successful request count" => level.server_requests = value,
            _ => {}
        }
    }
    counts
}

fn loads(levels: &[Level]) -> Vec<f64> {
    levels.iter().map(|level| level.load).collect()
}

#[tokio::test]
async fn a_sweep_of_concurrency_is_measured_level_by_level() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let arguments = ["--shape", "x:16", "--concurrency-range", "1:64:21"];
    let Some(levels) = measure(&shoal, "echo", 2, &[arguments, windows_of("100")].concat()).await else { return };
    assert_eq!(loads(&levels), [1.0, 22.0, 43.0, 64.0]);
    // By bisection, compressed, and by asynchronous calls.
    let arguments = [
        ["--shape", "x:16", "--concurrency-range", "1:16:15", "--binary-search", "-l", "60000"].as_slice(),
        &["--async", "--grpc-compression-algorithm", "gzip"],
        &windows_of("100"),
    ];
    let levels = measure(&shoal, "echo", 1, &arguments.concat()).await.expect("it is there");
    assert_eq!(loads(&levels), [1.0, 16.0]);
}

#[tokio::test]
async fn poisson_arrivals_and_streams_are_measured() {
    let shoal = Shoal::serve(&["--model", "echo"]);
    let rates = ["--shape", "x:16", "--request-rate-range", "50:150:100", "--request-distribution", "poisson"];
    let Some(levels) = measure(&shoal, "echo", 1, &[&rates[..], &windows_of("25")].concat()).await else { return };
    assert_eq!(loads(&levels), [50.0, 150.0]);
    let stream = ["--shape", "x:16", "--streaming", "--async", "--concurrency-range", "8"];
    let levels = measure(&shoal, "echo", 1, &[&stream[..], &windows_of("100")].concat()).await.expect("it is there");
    assert_eq!(loads(&levels), [8.0]);
}

#[tokio::test]
async fn texts_from_a_file_are_measured_on_a_real_model() {
    let Some(home) = crate::minilm::home() else { return };
    let shoal = Shoal::serve_in(&home, &["--model", "minilm"]);
    let texts = ["--input-data", "benches/perf_analyzer/texts.json", "--concurrency-range", "1:8:7"];
    let Some(levels) = measure(&shoal, "minilm", 1, &[texts, windows_of("10")].concat()).await else { return };
    assert_eq!(loads(&levels), [1.0, 8.0]);
}
