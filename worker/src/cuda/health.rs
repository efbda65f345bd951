//! How full, busy and warm a GPU is, whoever uses it.

use std::fmt;

use super::driver::DeviceInfo;

/// Of one GPU, now. A part of a GPU does not know all of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Health {
    /// Bytes used by all processes.
    pub(crate) memory_used: Option<u64>,
    /// Bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) power_watts: Option<f64>,
    pub(crate) temperature_celsius: Option<u32>,
    /// How much of the last moment any kernel ran, of 1.
    pub(crate) utilization: Option<f64>,
}

/// What reads the health of one GPU.
pub(crate) struct Meter {
    /// As the driver has it.
    pub(crate) name: String,
    pub(crate) uuid: String,
    /// May take long. None where nothing is known.
    pub(crate) read: Box<dyn FnMut() -> Option<Health> + Send>,
}

impl Meter {
    pub(crate) fn new(info: &DeviceInfo, read: impl FnMut() -> Option<Health> + Send + 'static) -> Self {
        Self { name: info.name.clone(), uuid: info.uuid.clone(), read: Box::new(read) }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("uuid", &self.uuid).finish_non_exhaustive()
    }
}
