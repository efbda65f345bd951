//! What several servers answer in time of what one does, on the same workers, in real processes.
//!
//!     cargo build --release && cargo run --release -p shoal-benches --example several
//!
//! Workers sleep for as long as a stated curve says, so that what is compared is scheduling and talk, not kernels. The load is
//! Poisson's, the same in all for one server and for three, of which each gets its part. What was found is in
//! [server/docs/faults.md](../../server/docs/faults.md).

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use serde::Deserialize;

/// Longer than anything takes to come up.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Options {
    /// The binary to run.
    #[arg(long, default_value = "target/release/shoal")]
    shoal: PathBuf,
    /// How long a batch takes, as of a synthetic model.
    #[arg(long, default_value = "base=20ms+per_row=2ms")]
    curve: String,
    /// The objective.
    #[arg(long, default_value = "200ms")]
    slo: String,
    /// Calls a second in all, each a load to compare at.
    #[arg(long, value_delimiter = ',', default_values_t = [250.0, 375.0, 600.0])]
    rates: Vec<f64>,
    /// Servers to compare with one.
    #[arg(long, default_value_t = 3)]
    servers: usize,
    /// Workers that all of them share.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// How long each load is measured.
    #[arg(long, default_value = "20s")]
    duration: String,
    /// Measurements of each.
    #[arg(long, default_value_t = 1)]
    rounds: u64,
}

/// What is read of a load's report.
#[derive(Deserialize)]
struct Report {
    seconds: f64,
    objective: Objective,
    rates: Rates,
    latency_us: Percentiles,
}

#[derive(Deserialize)]
struct Objective {
    on_time: u64,
}

#[derive(Deserialize)]
struct Rates {
    ok: f64,
}

#[derive(Deserialize)]
struct Percentiles {
    p99: u64,
}

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // One that is gone already is no trouble.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server and where it is called.
struct Server {
    _process: Process,
    grpc: String,
    metrics: String,
}

/// What was measured of so many servers together.
#[derive(Clone, Copy, Default)]
struct Figures {
    on_time: f64,
    answered: f64,
    p99_ms: f64,
    joined: f64,
    batches: f64,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    println!("{} worker(s), {}, objective {}, {} each", options.workers, options.curve, options.slo, options.duration);
    println!("| calls/s | servers | on time/s | answered/s | p99 ms | parts run with others' | of one |");
    println!("|---:|---:|---:|---:|---:|---:|---:|");
    for rate in &options.rates {
        for round in 0..options.rounds {
            let mut of_one = None;
            for servers in [1, options.servers] {
                let figures = measure(&options, servers, *rate, round)?;
                let Figures { on_time, answered, p99_ms, joined, batches } = figures;
                let one = *of_one.get_or_insert(on_time);
                let (joined, share) = (100.0 * joined / batches.max(1.0), on_time / one.max(1e-9));
                println!(
                    "| {rate} | {servers} | {on_time:.1} | {answered:.1} | {p99_ms:.0} | {joined:.0} % | {share:.3} |"
                );
            }
        }
    }
    Ok(())
}

fn measure(options: &Options, servers: usize, rate: f64, round: u64) -> anyhow::Result<Figures> {
    let home = tempfile::tempdir()?;
    let model = format!("s=synthetic:{},slo={}", options.curve, options.slo);
    let command = || {
        let mut command = Command::new(&options.shoal);
        command.env("SHOAL_HOME", home.path()).env("SHOAL_WORKER_TOKEN", "token").env("SHOAL_MODELS", &model);
        command.env("SHOAL_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::piped());
        command
    };
    let held = (0..servers).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let ports = held.iter().map(|port| Ok(port.local_addr()?.port())).collect::<Result<Vec<_>, std::io::Error>>()?;
    drop(held);
    let mut started = Vec::new();
    for port in &ports {
        let mut serve = command();
        serve.args(["serve", "--workers", "external", "--share-workers", "--link-port", &port.to_string()]);
        serve.args(["--grpc-port", "0", "--http-port", "off", "--metrics-port", "0"]);
        started.push(serve.spawn().map(Process).with_context(|| options.shoal.display().to_string())?);
    }
    let _workers = (0..options.workers)
        .map(|_| {
            let mut work = command();
            work.args(["worker", "--device", "cpu", "--worker-threads", "1"]);
            ports.iter().for_each(|port| {
                work.args(["--connect", &format!("http://127.0.0.1:{port}")]);
            });
            Ok(Process(work.stdout(Stdio::null()).spawn()?))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let servers = started.into_iter().map(serving).collect::<anyhow::Result<Vec<_>>>()?;
    await_workers(&servers, options.workers)?;
    let mut loads = Vec::new();
    for (at, server) in servers.iter().enumerate() {
        let mut load = command();
        load.args(["load", "--addr", &server.grpc, "--model", "s", "--api", "infer", "--json"]);
        load.args([
            "--rate",
            &(rate / servers.len() as f64).to_string(),
            "--seed",
            &(10 * round + at as u64).to_string(),
        ]);
        load.args([
            "--duration",
            &options.duration,
            "--warmup",
            "5s",
            "--objective",
            &options.slo,
            "--connections",
            "1",
        ]);
        loads.push(load.spawn()?);
    }
    let mut all = Figures::default();
    for load in loads {
        let output = load.wait_with_output()?;
        anyhow::ensure!(output.status.success(), "the load failed: {}", output.status);
        let report: Report = serde_json::from_slice(&output.stdout).context("the load's report")?;
        all.on_time += report.objective.on_time as f64 / report.seconds;
        all.answered += report.rates.ok;
        all.p99_ms = all.p99_ms.max(report.latency_us.p99 as f64 / 1e3);
    }
    for server in &servers {
        let page = page(&server.metrics)?;
        all.joined += sum(&page, "shoal_joined_batches_total{");
        all.batches += sum(&page, "shoal_batches_total{");
    }
    Ok(all)
}

/// Reads where a server is once it serves.
fn serving(mut process: Process) -> anyhow::Result<Server> {
    let stdout = process.0.stdout.take().context("standard output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        let words: Vec<&str> = line.split([' ', ',']).collect();
        if let ["gRPC", "on", grpc, ..] = words[..] {
            let metrics = words.iter().find_map(|word| word.strip_prefix("http://")).context("the metrics address")?;
            return Ok(Server { _process: process, grpc: grpc.to_owned(), metrics: metrics.to_owned() });
        }
    }
    anyhow::bail!("a server ended before it served")
}

/// Returns once every server has every worker.
fn await_workers(servers: &[Server], workers: usize) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    for server in servers {
        while sum(&page(&server.metrics)?, "shoal_model_workers{") < workers as f64 {
            anyhow::ensure!(Instant::now() < until, "{} workers did not come", workers);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn page(address: &str) -> anyhow::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.write_all(format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// Of a metric, over all its labels.
fn sum(page: &str, metric: &str) -> f64 {
    let values = page.lines().filter(|line| line.starts_with(metric)).filter_map(|line| line.rsplit(' ').next());
    values.filter_map(|value| value.parse::<f64>().ok()).sum()
}
