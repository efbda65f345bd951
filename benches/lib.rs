//! Benchmarks of Shoal, each a program of its own under `benches/`:
//!
//! - `scheduler`: time per request spent deciding, with little and with much queued.
//! - `copies`: how often a payload is copied on its way through server and worker.
//! - `hop`: calls through server, scheduler and worker process, beside a server that answers by itself.
//! - `memory`: what a server's memory comes to with much in flight.
//!
//! Beside them, under `examples/`, are `engine`, which other engines are compared with, and `policies`, which compares
//! batching policies in real processes.
//!
//! `telemetry/instructions` counts what the server's process runs for a call, with and without spans.
//!
//! `cargo bench -p shoal-benches --bench scheduler`. Nothing depends on this crate.
//!
//! What they share is here: the product as a user runs it, in processes of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

/// A process that serves, ended when dropped.
#[derive(Debug)]
pub struct Served {
    child: Child,
    /// Where it takes calls.
    pub address: String,
    /// Where it counts them, if it does.
    metrics: Option<String>,
    _home: Option<tempfile::TempDir>,
}

impl Served {
    /// Starts a program whose first line is its address.
    ///
    /// # Errors
    /// When it cannot be started, or ends at once.
    pub fn program(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let address = line_with(&mut child, "")?.trim().to_owned();
        Ok(Self { child, address, metrics: None, _home: None })
    }

    /// Builds the release binary and starts `shoal serve` on free ports, with these arguments besides and an empty home.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub fn shoal(arguments: &[&str]) -> anyhow::Result<Self> {
        Self::serve(&shoal()?, arguments, Some(tempfile::tempdir()?))
    }

    /// Starts this binary's `shoal serve` on free ports, with these arguments besides. Its home is that folder, which goes
    /// with it, or the user's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn serve(shoal: &Path, arguments: &[&str], home: Option<tempfile::TempDir>) -> anyhow::Result<Self> {
        let mut command = Command::new(shoal);
        command.args(["serve", "--grpc-port", "0", "--metrics-port", "0", "--http-port", "off", "--log", "warn"]);
        command.args(arguments);
        if let Some(home) = &home {
            command.env("SHOAL_HOME", home.path());
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let line = line_with(&mut child, "gRPC on ")?;
        let mut words = line.split([' ', ',']).filter(|word| word.contains(':'));
        let (address, metrics) = (words.next().context(line.clone())?, words.next().context(line.clone())?);
        let metrics = metrics.trim_start_matches("http://").split('/').next().unwrap_or_default().to_owned();
        Ok(Self { child, address: address.to_owned(), metrics: Some(metrics), _home: home })
    }

    /// The value of a metric, named as on the page; 0 where there is none yet.
    ///
    /// # Errors
    /// When the page cannot be read.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let Some(metrics) = &self.metrics else { return Ok(0.0) };
        let mut stream = TcpStream::connect(metrics)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(value.unwrap_or(0.0))
    }

    /// Its processes: its own, and those of its children there are now.
    ///
    /// # Errors
    /// Where the system does not say, as only Linux does.
    pub fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let mut pids = vec![self.child.id()];
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let children = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        Ok(pids)
    }

    /// Processor time of the process and its children, those that have ended included, user and system, in seconds.
    ///
    /// # Errors
    /// Where the system does not say, as only Linux does.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        // A child may end between the two looks.
        Ok(self.pids()?.into_iter().map(|pid| cpu_seconds(pid).unwrap_or(0.0)).sum())
    }

    /// Memory of the process without its children, in MB: now, and the most ever.
    ///
    /// # Errors
    /// Where the system does not say, as only Linux does.
    pub fn resident_mb(&self) -> anyhow::Result<(f64, f64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| -> anyhow::Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a line")?;
            let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
            Ok(kibibytes * 1024.0 / 1e6)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of a process and of the children it has waited for, user and system, in seconds.
///
/// # Errors
/// Where there is no such process, or the system does not say, as only Linux does.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // In ticks of 1/100 s, the value on every Linux there is. Fields are counted behind the name in parentheses.
    let (_, rest) = stat.rsplit_once(") ").context("a name in parentheses")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = fields.get(11..15).context("times")?.iter().map(|field| field.parse::<f64>());
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}

/// Builds the product and returns where it lies: beside this benchmark's own folder.
///
/// # Errors
/// When it cannot be built.
pub fn shoal() -> anyhow::Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo says of this package to those that it runs would have crates built anew that look at it, and all that need
    // them.
    let told = |(name, _): &(String, String)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars().filter(told) {
        command.env_remove(name);
    }
    command.args(["build", "--quiet", "--release", "--bin", "shoal", "--manifest-path"]).arg(manifest);
    anyhow::ensure!(command.status()?.success(), "the release binary could not be built");
    let own = std::env::current_exe()?;
    let folder = own.ancestors().nth(2).context("a target folder")?;
    Ok(folder.join("shoal"))
}

/// The first line of a child's output that has `part`; what follows is read and dropped.
fn line_with(child: &mut Child, part: &str) -> anyhow::Result<String> {
    let mut lines = BufReader::new(child.stdout.take().context("output")?).lines();
    let line = lines.by_ref().find(|line| line.as_ref().is_ok_and(|line| line.contains(part)));
    std::thread::spawn(move || lines.for_each(drop));
    Ok(line.context("the server ended before it was ready")??)
}
