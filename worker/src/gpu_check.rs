//! Holds a GPU to the reference loops and measures it, for `benches/gpu`. Every number that is compared was drawn for this
//! run, and every output is none before a kernel writes it.

mod encoders;
mod models;
mod parity;
mod speed;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use encoders::{Encoder, Family};
pub use models::{Answers, Overlap, Paging, Shape, Timed};
pub use parity::Parity;
pub use speed::{Ceilings, OpSpeed};

use crate::backend::Gpu;
use crate::cuda::driver::{Driver, DriverError};
use crate::cuda::nvidia;
use crate::cuda::queue::Queue;

/// Tokens of the largest batch that is checked.
const TOKENS_MAX: usize = 131_072;
/// Rows of it.
const ROWS_MAX: usize = 2_048;

/// A GPU under examination.
#[derive(Debug)]
pub struct GpuCheck {
    driver: Arc<dyn Driver>,
    gpu: Arc<Gpu>,
    queue: Queue,
    seed: u64,
    is_emulated: bool,
    /// Bytes of device memory in use when it was opened, the bare context's among them.
    bare: u64,
}

/// Which device to examine.
#[derive(Clone, Debug)]
pub enum Which {
    /// The first GPU, with compiled kernels kept in this folder.
    Nvidia(PathBuf),
    /// None: the emulator, which is thousands of times slower and to be asked for little.
    Emulated,
}

/// What cannot be examined, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CheckError(String);

impl GpuCheck {
    /// Opens the device. All numbers are drawn from `seed`.
    ///
    /// # Errors
    /// When there is no such device, in the words that a worker would log.
    pub fn open(which: Which, seed: u64) -> Result<Self, CheckError> {
        let is_emulated = matches!(which, Which::Emulated);
        let driver: Arc<dyn Driver> = match which {
            Which::Nvidia(kernels) => nvidia::open(0, Some(&kernels)).map_err(say)?,
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Which::Emulated => crate::cuda::double::Double::new(seed, 8 << 30),
            #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
            Which::Emulated => return Err(CheckError("the emulator runs on x86-64 Linux only".to_owned())),
        };
        let memory = driver.memory()?;
        let (free, bare) = (memory.free, memory.total - memory.free);
        let (tokens, rows) = if is_emulated { (256, 16) } else { (TOKENS_MAX, ROWS_MAX) };
        let gpu = Gpu::new(driver.clone(), free - free / 10, tokens, rows)?;
        Ok(Self { queue: Queue::new(&driver)?, driver, gpu, seed, is_emulated, bare })
    }

    /// Name, capability and multiprocessors.
    #[must_use]
    pub fn device(&self) -> String {
        let info = self.driver.device();
        let (major, minor) = info.capability;
        format!("{}, sm_{major}{minor}, {} multiprocessors", info.name, info.multiprocessors)
    }

    /// Device memory in use, in bytes: by this process and all others.
    fn memory_used(&self) -> Result<u64, CheckError> {
        let memory = self.driver.memory()?;
        Ok(memory.total - memory.free)
    }

    fn seconds(elapsed: Duration, times: u32) -> f64 {
        elapsed.as_secs_f64() / f64::from(times)
    }
}

impl From<DriverError> for CheckError {
    fn from(error: DriverError) -> Self {
        Self(error.to_string())
    }
}

fn say(error: impl std::fmt::Display) -> CheckError {
    CheckError(error.to_string())
}
