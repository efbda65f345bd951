//! What a worker computes on, found once when it starts.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::backend::{Compute, Gpu};
use crate::cuda::driver::{Driver, DriverError, Memory};
#[cfg(all(feature = "emulator", target_arch = "x86_64", target_os = "linux"))]
use crate::cuda::emulated::{self, Emulated};
use crate::cuda::health::Meter;
use crate::cuda::library::NoCuda;
use crate::cuda::nvidia;
use crate::link::memory;
use crate::run::RunError;
use crate::{Budget, CpuIsa, DeviceChoice, GpuChoice, Options};

/// Of a GPU's free memory, so much is left to the driver and to whoever else is on it.
const SPARE_PARTS: u64 = 20;

/// A worker's device, as servers are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// `cpu` or `cuda`.
    pub(crate) kind: &'static str,
    /// Tells a GPU from others; empty for a processor.
    pub(crate) uuid: String,
    /// Such as `AMD EPYC 9B45, avx512-narrow` or `NVIDIA H200, sm_90`.
    pub(crate) name: String,
    pub(crate) memory_bytes: u64,
    /// Threads that compute; 0 for a GPU.
    pub(crate) threads: u32,
    /// What one batch may hold at most.
    pub(crate) budget: Budget,
}

/// A GPU, and what reads how it is.
type Metered = (Arc<dyn Driver>, Meter);

/// A device that was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) device: Device,
    /// What computes on it.
    pub(crate) compute: Compute,
    /// What reads how it is; none of a processor.
    pub(crate) meter: Option<Meter>,
}

impl Opened {
    /// The device that the options ask for.
    pub(crate) fn new(options: &Options, compute: Compute) -> Result<Self, RunError> {
        Self::on(open_gpu(options)?, options, compute)
    }

    /// That GPU, or the processor.
    fn on(gpu: Option<Metered>, options: &Options, compute: Compute) -> Result<Self, RunError> {
        let Some((driver, meter)) = gpu else { return Ok(Self::processor(options, compute)) };
        match Device::gpu(options, driver, &compute) {
            Ok((device, compute)) => Ok(Self { device, compute, meter: Some(meter) }),
            Err(error) if is_replaceable(options) => {
                tracing::warn!(%error, "computes on the processor: the GPU fails");
                Ok(Self::processor(options, compute))
            }
            Err(error) => Err(RunError::Broken(error.to_string())),
        }
    }

    fn processor(options: &Options, compute: Compute) -> Self {
        Self { device: Device::processor(options, &compute), compute, meter: None }
    }
}

impl Device {
    fn gpu(options: &Options, driver: Arc<dyn Driver>, compute: &Compute) -> Result<(Self, Compute), DriverError> {
        let (info, memory) = (driver.device().clone(), driver.memory()?);
        let budget = options.budget.unwrap_or_else(Budget::of_gpu);
        let (major, minor) = info.capability;
        let device = Self {
            kind: "cuda",
            uuid: info.uuid.clone(),
            name: format!("{}, sm_{major}{minor}", info.name),
            memory_bytes: info.memory,
            threads: 0,
            budget,
        };
        tracing::info!(gpu = %device.name, address = %info.address, free_mib = memory.free >> 20, "computes on");
        let memory_max = memory_max(memory, options.gpu_workers);
        let gpu = Gpu::new(driver, memory_max, budget.tokens as usize, budget.rows as usize)?;
        Ok((device, compute.clone().with_gpu(gpu, options.device == DeviceChoice::Auto)))
    }

    fn processor(options: &Options, compute: &Compute) -> Self {
        let isa = options.cpu_isa.unwrap_or_else(CpuIsa::detect);
        Self {
            kind: "cpu",
            uuid: String::new(),
            name: format!("{}, {isa}", memory::processor()),
            memory_bytes: memory::installed(),
            threads: u32::try_from(compute.threads()).unwrap_or(u32::MAX),
            budget: options.budget.unwrap_or_default(),
        }
    }
}

/// What one of so many workers on a GPU takes at most: of what is free, or of its part of the whole where that is less, for
/// the others may not have taken theirs yet.
fn memory_max(memory: Memory, workers: NonZeroU32) -> u64 {
    let part = memory.free.min(memory.total / u64::from(workers.get()));
    part - part / SPARE_PARTS
}

/// Whether the processor will do where the GPU does not. It does not for one that was named: whoever named it counts on it.
fn is_replaceable(options: &Options) -> bool {
    options.device == DeviceChoice::Auto && matches!(options.gpu, GpuChoice::Number(_))
}

/// The GPU that the options ask for, if they ask for one and there is one.
fn open_gpu(options: &Options) -> Result<Option<Metered>, RunError> {
    if options.device == DeviceChoice::Cpu {
        return Ok(None);
    }
    #[cfg(all(feature = "emulator", target_arch = "x86_64", target_os = "linux"))]
    if options.device == DeviceChoice::Emulated {
        let double = emulated::first();
        return Ok(Some((double.clone(), emulated::meter(double, 0))));
    }
    match open_chosen(options) {
        Ok(opened) => Ok(Some(opened)),
        Err(missing) if is_replaceable(options) => {
            tracing::info!("computes on the processor: {missing}");
            Ok(None)
        }
        Err(missing) if matches!(options.gpu, GpuChoice::Uuid(_)) => Err(RunError::NoGpu(missing.to_string())),
        Err(missing) => Err(RunError::NoCuda(missing.to_string())),
    }
}

/// The GPU of that number or UUID.
fn open_chosen(options: &Options) -> Result<Metered, NoCuda> {
    #[cfg(all(feature = "emulator", target_arch = "x86_64", target_os = "linux"))]
    if let Some(emulated) = Emulated::of_environment() {
        let ordinal = match &options.gpu {
            GpuChoice::Number(ordinal) => *ordinal,
            GpuChoice::Uuid(uuid) => nvidia::ordinal_among(&emulated.devices()?, uuid)?,
        };
        let double = emulated.open(ordinal)?;
        return Ok((double.clone(), emulated::meter(double, ordinal)));
    }
    let ordinal = match &options.gpu {
        GpuChoice::Number(ordinal) => *ordinal,
        GpuChoice::Uuid(uuid) => nvidia::ordinal(uuid)?,
    };
    let driver = nvidia::open(ordinal, options.kernels.as_deref())?;
    let meter = nvidia::meter(driver.device());
    Ok((driver, meter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_on_one_gpu_part_its_memory() {
        let max = |free, workers| memory_max(Memory { free, total: 1000 }, NonZeroU32::new(workers).unwrap());
        assert_eq!(max(900, 1), 855);
        assert_eq!(max(900, 2), 475);
        // Somebody else is there.
        assert_eq!(max(200, 2), 190);
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn the_processor_stands_in_for_a_gpu_that_fails_unless_that_was_named() {
        use crate::cuda::double::Double;

        let opened = |gpu| {
            let double = Double::new(1, 1 << 20);
            // More than there is memory.
            double.set_workspace(2 << 20);
            let meter = Meter::new(double.device(), || None);
            let options = Options { gpu, ..Options::new("unix:/nowhere".parse().unwrap(), "worker", "") };
            let compute = Compute::new(Some(std::num::NonZeroUsize::MIN), CpuIsa::detect()).unwrap();
            let driver: Arc<dyn Driver> = double;
            Opened::on(Some((driver, meter)), &options, compute).map(|opened| opened.device)
        };
        let processor = opened(GpuChoice::Number(0)).unwrap();
        assert_eq!((processor.kind, &*processor.uuid), ("cpu", ""));
        let named = opened(GpuChoice::Uuid("GPU-00000000-0000-0000-0000-000000000000".to_owned()));
        assert!(matches!(named, Err(RunError::Broken(_))), "{named:?}");
    }
}
