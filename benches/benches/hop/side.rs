//! One of the two servers that are compared.

use std::process::Command;

use shoal_benches::Served;

use crate::h2load::{H2load, Shape, WARM_UP};

/// What its metrics count for each call of this benchmark.
const ANSWERED: &str = "shoal_calls_total{model=\"echo\",code=\"OK\"}";

/// A running server.
pub(crate) struct Side {
    served: Served,
    /// It counts its answers.
    counts: bool,
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
        Ok(Self { served: Served::program(command)?, counts: false })
    }

    /// The release binary with one local worker.
    pub(crate) fn shoal() -> anyhow::Result<Self> {
        Ok(Self { served: Served::shoal(&["--model", "echo"])?, counts: true })
    }

    /// Puts one round of load on it.
    pub(crate) fn measure(&self, h2load: &H2load, shape: &Shape) -> anyhow::Result<Run> {
        let (answered, cpu) = (self.served.metric(ANSWERED)?, self.served.cpu_seconds()?);
        let measured = h2load.run(&self.served.address, shape)?;
        let (answered, cpu) = (self.served.metric(ANSWERED)? - answered, self.served.cpu_seconds()? - cpu);
        // h2load takes any answer for a good one.
        anyhow::ensure!(!self.counts || answered >= measured.answered as f64, "not every call was answered with OK");
        let calls = measured.rate * (h2load.duration + WARM_UP).as_secs_f64();
        let at = |share: f64| f64::from(measured.latencies_us[(measured.latencies_us.len() as f64 * share) as usize]);
        Ok(Run { rate: measured.rate, median_us: at(0.5), p99_us: at(0.99), cpu_us: cpu * 1e6 / calls })
    }
}
