//! Emulated GPUs in the place of NVIDIA's, for tests of whole processes. Only builds with the feature `emulator` have
//! them: no release knows so much as the variables' names.
//!
//! | variable | meaning |
//! |---|---|
//! | `SHOAL_EMULATED_GPUS` | so many GPUs are all that there are |
//! | `SHOAL_EMULATED_FAULT` | once there is a file of this path, whoever launches a kernel next takes it away, and finds its GPU broken |

use std::path::PathBuf;
use std::sync::Arc;

use super::double::Double;
use super::driver::{DeviceInfo, Driver as _};
use super::health::{Health, Meter};
use super::library::NoCuda;

/// Memory of each.
const BYTES: u64 = 1 << 30;

/// What the environment asks for.
#[derive(Debug)]
pub(crate) struct Emulated {
    count: u32,
    fault: Option<PathBuf>,
}

impl Emulated {
    /// None unless it asks for some.
    ///
    /// # Panics
    /// If it asks for what is no number: a test must not go on without.
    pub(crate) fn of_environment() -> Option<Self> {
        let count = std::env::var("SHOAL_EMULATED_GPUS").ok()?;
        let count = count.parse().unwrap_or_else(|error| panic!("SHOAL_EMULATED_GPUS={count}: {error}"));
        Some(Self { count, fault: std::env::var_os("SHOAL_EMULATED_FAULT").map(PathBuf::from) })
    }

    pub(crate) fn devices(&self) -> Result<Vec<DeviceInfo>, NoCuda> {
        match self.count {
            0 => Err(NoCuda::NoDevice),
            count => Ok((0..count).map(info).collect()),
        }
    }

    pub(crate) fn open(self, ordinal: u32) -> Result<Arc<Double>, NoCuda> {
        match self.count {
            0 => Err(NoCuda::NoDevice),
            count if ordinal >= count => Err(NoCuda::NoSuchDevice { ordinal, count }),
            _ => Ok(Double::of(info(ordinal), self.fault)),
        }
    }
}

/// One GPU by itself, asked for by whoever runs a worker in its own process.
pub(crate) fn first() -> Arc<Double> {
    Double::of(info(0), None)
}

/// Reads the double's own memory; the rest is made up, and differs between GPUs.
pub(crate) fn meter(double: Arc<Double>, ordinal: u32) -> Meter {
    Meter::new(&info(ordinal), move || {
        let memory = double.memory().ok()?;
        Some(Health {
            memory_used: Some(memory.total - memory.free),
            memory: Some(memory.total),
            power_watts: Some(100.5 + f64::from(ordinal)),
            temperature_celsius: Some(40 + ordinal),
            utilization: Some(0.25),
        })
    })
}

fn info(ordinal: u32) -> DeviceInfo {
    DeviceInfo {
        name: "emulated".to_owned(),
        capability: (8, 0),
        multiprocessors: 1,
        memory: BYTES,
        uuid: format!("GPU-00000000-0000-0000-0000-{ordinal:012}"),
        address: format!("0000:{ordinal:02x}:00.0"),
    }
}
