//! The product in processes of its own, as a user runs it: `shoal serve` with a file of settings, and `shoal load`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Deserialize;
use shoal_benches::Served;

/// The binary.
pub(crate) struct Shoal(PathBuf);

/// What is learned stays in memory, or in the home.
#[derive(Clone, Copy)]
pub(crate) enum Home {
    /// Nothing is known at the start.
    Empty,
    /// Where models were pulled to.
    Own,
}

/// A running server that holds every model on every worker.
pub(crate) struct Server {
    served: Served,
    _settings: tempfile::NamedTempFile,
}

/// The fields of `shoal load --json` that are looked at.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) calls: Calls,
    pub(crate) rates: Rates,
    pub(crate) latency_us: Percentiles,
    pub(crate) compute_us: Percentiles,
    pub(crate) queue_us: Percentiles,
    pub(crate) objective: Option<Objective>,
    pub(crate) batch_rows_mean: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Calls {
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    pub(crate) overflow: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Rates {
    pub(crate) ok: f64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Objective {
    pub(crate) share: f64,
}

impl Shoal {
    /// Builds it.
    pub(crate) fn build() -> anyhow::Result<Self> {
        Ok(Self(shoal_benches::shoal()?))
    }

    /// Fetches a model of the catalogue, unless it is there.
    pub(crate) fn pull(&self, model: &str) -> anyhow::Result<()> {
        let status = Command::new(&self.0).args(["models", "pull", model]).stdout(Stdio::null()).status()?;
        anyhow::ensure!(status.success(), "`shoal models pull {model}` failed");
        Ok(())
    }

    /// Starts a server with these settings, and waits until so many workers hold every model.
    pub(crate) fn serve(&self, settings: &str, models: &[String], workers: u32, home: Home) -> anyhow::Result<Server> {
        let mut file = tempfile::Builder::new().suffix(".toml").tempfile()?;
        file.write_all(settings.as_bytes())?;
        let path = file.path().to_str().context("a path of UTF-8")?.to_owned();
        let home = match home {
            Home::Empty => Some(tempfile::tempdir()?),
            Home::Own => None,
        };
        let server = Server { served: Served::serve(&self.0, &["--config", &path], home)?, _settings: file };
        server.wait_for(models, workers, Duration::from_secs(60))?;
        Ok(server)
    }

    /// Puts a load on a server and waits for its end.
    pub(crate) fn load(&self, server: &Server, arguments: &[String]) -> anyhow::Result<Report> {
        self.start_load(server, arguments)?.report()
    }

    /// Puts a load on a server.
    pub(crate) fn start_load(&self, server: &Server, arguments: &[String]) -> anyhow::Result<Loading> {
        let mut command = Command::new(&self.0);
        command.args(["load", "--json", "--addr", &server.served.address]).args(arguments);
        Ok(Loading(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?))
    }
}

/// A load under way.
pub(crate) struct Loading(std::process::Child);

impl Loading {
    pub(crate) fn report(self) -> anyhow::Result<Report> {
        let output = self.0.wait_with_output()?;
        let (told, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // It fails when no call succeeded, and has a report all the same.
        serde_json::from_str(&told).with_context(|| format!("`shoal load` said `{}` {}", told.trim(), error.trim()))
    }
}

impl Server {
    /// Processor time of all its processes until now, in seconds.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        self.served.cpu_seconds()
    }

    /// Waits until so many workers hold every model.
    pub(crate) fn wait_for(&self, models: &[String], workers: u32, at_most: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        while !self.holds(models, workers)? {
            anyhow::ensure!(began.elapsed() < at_most, "no {workers} workers within {at_most:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn holds(&self, models: &[String], workers: u32) -> anyhow::Result<bool> {
        for model in models {
            let metric = format!("shoal_model_workers{{model=\"{model}\"}}");
            if self.served.metric(&metric)? != f64::from(workers) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Kills one of its workers, as the system would that needs memory.
    pub(crate) fn kill_worker(&self) -> anyhow::Result<()> {
        let worker = *self.served.pids()?.get(1).context("a worker")?;
        let status = Command::new("kill").args(["-KILL", &worker.to_string()]).status()?;
        anyhow::ensure!(status.success(), "worker {worker} cannot be killed");
        Ok(())
    }
}

/// Arguments as `shoal load` takes them.
pub(crate) fn arguments<const N: usize>(pairs: [(&str, String); N]) -> Vec<String> {
    pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

/// A path as an argument.
pub(crate) fn path(path: &Path) -> anyhow::Result<String> {
    Ok(path.to_str().context("a path of UTF-8")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_shoal_load_writes() {
        let json = r#"{"model":"m","api":"infer","load":{"mode":"closed","concurrency":1},"texts_per_call":1,
            "lengths":null,"tokens_per_call":{"count":1,"mean":8.0,"p50":8,"p90":8,"p95":8,"p99":8,"p99.9":8,"max":8},
            "connections":4,"seconds":3.0,"calls":{"sent":3,"ok":1,"failed":2,"refused":1,"overflow":0},
            "rates":{"asked":null,"sent":1.0,"ok":0.5,"texts":1.0,"tokens":1.0},
            "latency_us":{"count":1,"mean":9.5,"p50":9,"p90":9,"p95":9,"p99":12,"p99.9":9,"max":9},
            "objective":{"us":50000,"on_time":1,"share":0.25},
            "send_lag_us":{"count":1,"mean":0.0,"p50":0,"p90":0,"p95":0,"p99":0,"p99.9":0,"max":0},
            "queue_us":{"count":1,"mean":1.0,"p50":1,"p90":1,"p95":1,"p99":1,"p99.9":1,"max":1},
            "compute_us":{"count":1,"mean":5.0,"p50":5,"p90":5,"p95":5,"p99":5,"p99.9":5,"max":5},
            "batch_rows_mean":1.5,"outcomes":{"OK":{"calls":1,"first_message":""}}}"#;
        let report: Report = serde_json::from_str(json).unwrap();
        assert_eq!((report.calls.sent, report.calls.failed, report.calls.overflow), (3, 2, 0));
        assert_eq!((report.latency_us.p50, report.latency_us.p99, report.compute_us.mean), (9, 12, 5.0));
        assert_eq!((report.rates.ok, report.queue_us.mean), (0.5, 1.0));
        assert_eq!((report.objective.unwrap().share, report.batch_rows_mean), (0.25, Some(1.5)));
    }

    #[test]
    fn arguments_are_flags_with_values() {
        assert_eq!(arguments([("--rate", "3".into()), ("--seed", "1".into())]), ["--rate", "3", "--seed", "1"]);
    }
}
