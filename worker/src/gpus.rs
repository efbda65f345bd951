//! The GPUs that there are: for people, and for a server that starts a worker for each.

#[cfg(all(feature = "emulator", target_arch = "x86_64", target_os = "linux"))]
use crate::cuda::emulated::Emulated;
use crate::cuda::library::NoCuda;
use crate::cuda::nvidia::{self, Found};

/// A GPU that the driver shows this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// Such as `NVIDIA H200`.
    pub name: String,
    /// As NVIDIA's tools write it: `GPU-…`, or `MIG-…` of a part of one.
    pub uuid: String,
    /// On the bus, such as `0000:3b:00.0`.
    pub address: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Bytes of memory, in use or not.
    pub memory: u64,
    /// What keeps a worker from computing on it, in one line.
    pub missing: Option<String>,
}

/// Why no GPU is found, in one line.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct NoGpus(String);

/// All GPUs, in the order of the numbers by which [`Options::gpu`](crate::Options::gpu) names them. No context is made on any.
///
/// The driver and CUDA's libraries stay open for as long as the process lives, and the driver may take seconds to start.
///
/// # Errors
/// When the driver is missing, too old or broken, or finds none.
pub fn gpus() -> Result<Vec<GpuInfo>, NoGpus> {
    let found = found().map_err(|missing| NoGpus(missing.to_string()))?;
    Ok(found.into_iter().map(GpuInfo::from).collect())
}

fn found() -> Result<Vec<Found>, NoCuda> {
    #[cfg(all(feature = "emulator", target_arch = "x86_64", target_os = "linux"))]
    if let Some(emulated) = Emulated::of_environment() {
        return Ok(emulated.devices()?.into_iter().map(|info| (info, None)).collect());
    }
    nvidia::devices()
}

impl From<Found> for GpuInfo {
    fn from((info, missing): Found) -> Self {
        Self {
            name: info.name,
            uuid: info.uuid,
            address: info.address,
            capability: info.capability,
            memory: info.memory,
            missing: missing.map(|missing| missing.to_string()),
        }
    }
}
