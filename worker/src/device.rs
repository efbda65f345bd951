//! What a worker computes on, found once when it starts.

use std::sync::Arc;

use crate::backend::{Compute, Gpu};
use crate::cuda::driver::{Driver, DriverError};
use crate::cuda::nvidia;
use crate::link::memory;
use crate::run::RunError;
use crate::{Budget, CpuIsa, DeviceChoice, Options};

/// Of a GPU's free memory, so much is left to the driver and to whoever else is on it.
const SPARE_PARTS: u64 = 20;

/// Memory of the emulated GPU.
#[cfg(all(feature = "emulator", target_arch = "x86_64", target_os = "linux"))]
const EMULATED_BYTES: u64 = 1 << 30;

/// A worker's device, as servers are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// `cpu` or `cuda`.
    pub(crate) kind: &'static str,
    /// Such as `AMD EPYC 9B45, avx512-narrow` or `NVIDIA H200, sm_90`.
    pub(crate) name: String,
    pub(crate) memory_bytes: u64,
    /// Threads that compute; 0 for a GPU.
    pub(crate) threads: u32,
    /// What one batch may hold at most.
    pub(crate) budget: Budget,
}

impl Device {
    /// The device that the options ask for, and what computes on it.
    pub(crate) fn open(options: &Options, compute: Compute) -> Result<(Self, Compute), RunError> {
        let Some(driver) = open_gpu(options)? else { return Ok((Self::processor(options, &compute), compute)) };
        match Self::gpu(options, driver, &compute) {
            Ok(opened) => Ok(opened),
            Err(error) if options.device == DeviceChoice::Auto => {
                tracing::warn!(%error, "computes on the processor: the GPU fails");
                Ok((Self::processor(options, &compute), compute))
            }
            Err(error) => Err(RunError::Broken(error.to_string())),
        }
    }

    fn gpu(options: &Options, driver: Arc<dyn Driver>, compute: &Compute) -> Result<(Self, Compute), DriverError> {
        let (info, free) = (driver.device().clone(), driver.memory()?.free);
        let budget = options.budget.unwrap_or_else(Budget::of_gpu);
        let (major, minor) = info.capability;
        let device = Self {
            kind: "cuda",
            name: format!("{}, sm_{major}{minor}", info.name),
            memory_bytes: info.memory,
            threads: 0,
            budget,
        };
        tracing::info!(gpu = %device.name, address = %info.address, free_mib = free >> 20, "computes on");
        let memory_max = free - free / SPARE_PARTS;
        let gpu = Gpu::new(driver, memory_max, budget.tokens as usize, budget.rows as usize)?;
        Ok((device, compute.clone().with_gpu(gpu, options.device == DeviceChoice::Auto)))
    }

    fn processor(options: &Options, compute: &Compute) -> Self {
        let isa = options.cpu_isa.unwrap_or_else(CpuIsa::detect);
        Self {
            kind: "cpu",
            name: format!("{}, {isa}", memory::processor()),
            memory_bytes: memory::installed(),
            threads: u32::try_from(compute.threads()).unwrap_or(u32::MAX),
            budget: options.budget.unwrap_or_default(),
        }
    }
}

/// The GPU that the options ask for, if they ask for one and there is one.
fn open_gpu(options: &Options) -> Result<Option<Arc<dyn Driver>>, RunError> {
    if options.device == DeviceChoice::Cpu {
        return Ok(None);
    }
    #[cfg(all(feature = "emulator", target_arch = "x86_64", target_os = "linux"))]
    if options.device == DeviceChoice::Emulated {
        return Ok(Some(crate::cuda::double::Double::new(0, EMULATED_BYTES)));
    }
    match nvidia::open(options.gpu, options.kernels.as_deref()) {
        Ok(driver) => Ok(Some(driver)),
        Err(missing) if options.device == DeviceChoice::Auto => {
            tracing::info!("computes on the processor: {missing}");
            Ok(None)
        }
        Err(missing) => Err(RunError::NoCuda(missing.to_string())),
    }
}
