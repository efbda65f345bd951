//! One of the two servers that are compared, in processes of their own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use crate::h2load::{H2load, Shape};

/// A running server.
pub(crate) struct Side {
    child: Child,
    address: String,
    /// Where it counts its calls, if it does.
    metrics: Option<String>,
    _home: tempfile::TempDir,
}

/// One round.
pub(crate) struct Run {
    /// Calls per second.
    pub(crate) rate: f64,
    pub(crate) median_us: f64,
    pub(crate) p99_us: f64,
    /// Of the server's processes, not the client's.
    pub(crate) cpu_us: f64,
}

impl Side {
    /// The baseline.
    pub(crate) fn bare() -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--bare");
        let home = tempfile::tempdir()?;
        let mut child = spawn(command)?;
        let address = line_with(&mut child, "")?.trim().to_owned();
        Ok(Self { child, address, metrics: None, _home: home })
    }

    /// The release binary with one local worker.
    pub(crate) fn shoal() -> anyhow::Result<Self> {
        let home = tempfile::tempdir()?;
        let mut command = Command::new(build()?);
        command.args(["serve", "--model", "echo", "--grpc-port", "0", "--metrics-port", "0", "--log", "warn"]);
        command.env("SHOAL_HOME", home.path());
        let mut child = spawn(command)?;
        let line = line_with(&mut child, "gRPC on ")?;
        let mut words = line.split([' ', ',']).filter(|word| word.contains(':'));
        let (address, metrics) = (words.next().context(line.clone())?, words.next().context(line.clone())?);
        let metrics = metrics.trim_start_matches("http://").split('/').next().unwrap_or_default().to_owned();
        Ok(Self { child, address: address.to_owned(), metrics: Some(metrics), _home: home })
    }

    /// Puts one round of load on it.
    pub(crate) fn measure(&self, h2load: &H2load, shape: &Shape) -> anyhow::Result<Run> {
        let (answered, cpu) = (self.answered()?, self.cpu_seconds()?);
        let measured = h2load.run(&self.address, shape)?;
        // h2load takes any answer for a good one, and leaves the last calls open when its time is up.
        if let (Some(before), Some(after)) = (answered, self.answered()?) {
            anyhow::ensure!(after - before >= measured.answered as f64, "not every call was answered with OK");
        }
        // What is counted by the log is all that was answered, warm-up included.
        let calls = answered.zip(self.answered()?).map_or(measured.latencies_us.len() as f64, |(a, b)| b - a);
        let at = |share: f64| f64::from(measured.latencies_us[(measured.latencies_us.len() as f64 * share) as usize]);
        let cpu_us = (self.cpu_seconds()? - cpu) * 1e6 / calls;
        Ok(Run { rate: measured.rate, median_us: at(0.5), p99_us: at(0.99), cpu_us })
    }

    /// Calls answered with OK so far.
    fn answered(&self) -> anyhow::Result<Option<f64>> {
        let Some(metrics) = &self.metrics else { return Ok(None) };
        let mut stream = TcpStream::connect(metrics)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let value = page.lines().find_map(|line| line.strip_prefix("shoal_calls_total{model=\"echo\",code=\"OK\"}"));
        Ok(Some(value.map_or(0.0, |value| value.trim().parse().unwrap_or(0.0))))
    }

    /// Processor time of the process and its children, user and system.
    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let mut pids = vec![self.child.id()];
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let children = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        // In ticks of 1/100 s, the value on every Linux there is. Fields are counted behind the name in parentheses.
        let ticks = |pid: u32| -> anyhow::Result<f64> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let (_, rest) = stat.rsplit_once(") ").context("a name in parentheses")?;
            let fields: Vec<&str> = rest.split(' ').collect();
            Ok(fields[11].parse::<f64>()? + fields[12].parse::<f64>()?)
        };
        pids.into_iter().map(|pid| ticks(pid).map(|ticks| ticks / 100.0)).sum()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the product and returns where it lies: beside this benchmark's own folder.
fn build() -> anyhow::Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release", "--bin", "shoal", "--manifest-path"]).arg(manifest);
    anyhow::ensure!(command.status()?.success(), "the release binary could not be built");
    let own = std::env::current_exe()?;
    let folder = own.ancestors().nth(2).context("a target folder")?;
    Ok(folder.join("shoal"))
}

fn spawn(mut command: Command) -> anyhow::Result<Child> {
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
}

/// The first line of a child's output that has `part`; what follows is read and dropped.
fn line_with(child: &mut Child, part: &str) -> anyhow::Result<String> {
    let mut lines = BufReader::new(child.stdout.take().context("output")?).lines();
    let line = lines.by_ref().find(|line| line.as_ref().is_ok_and(|line| line.contains(part)));
    std::thread::spawn(move || lines.for_each(drop));
    Ok(line.context("the server ended before it was ready")??)
}
