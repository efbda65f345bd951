//! What NVIDIA's management library says of a GPU: how full, busy and warm it is. Without the library nothing is said,
//! and nothing else is missing.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr;

use super::super::health::Health;

/// The library, started.
#[derive(Debug)]
pub(super) struct Nvml {
    functions: Functions,
    /// Kept open for as long as its functions may be called.
    _library: libloading::Library,
}

type Device = *mut c_void;
type Number = unsafe extern "C" fn(Device, *mut c_uint) -> c_int;

/// As the library has it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct MemoryInfo {
    total: u64,
    free: u64,
    used: u64,
}

/// As the library has it, both of 100.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[derive(Clone, Copy, Debug)]
struct Functions {
    shutdown: unsafe extern "C" fn() -> c_int,
    by_uuid: unsafe extern "C" fn(*const c_char, *mut Device) -> c_int,
    memory: unsafe extern "C" fn(Device, *mut MemoryInfo) -> c_int,
    power: Number,
    temperature: unsafe extern "C" fn(Device, c_int, *mut c_uint) -> c_int,
    utilization: unsafe extern "C" fn(Device, *mut Utilization) -> c_int,
}

const SUCCESS: c_int = 0;
/// The sensor on the GPU itself.
const ON_DIE: c_int = 0;

impl Nvml {
    /// If the library is there and starts.
    pub(super) fn open() -> Option<Self> {
        // SAFETY: what this loads is NVIDIA's own library, whose initialisers touch nothing of ours.
        let library = unsafe { libloading::Library::new("libnvidia-ml.so.1") }.ok()?;
        // SAFETY: the types are those of the library's header.
        let (init, functions) = unsafe {
            let init = *library.get::<unsafe extern "C" fn() -> c_int>("nvmlInit_v2").ok()?;
            (init, Functions::of(&library).ok()?)
        };
        // SAFETY: it takes nothing, and is undone once, when `self` is dropped, which is none unless it began.
        (unsafe { init() } == SUCCESS).then(|| Self { functions, _library: library })
    }

    /// Of the GPU with this UUID, as the driver's side of the seam names it.
    pub(super) fn health(&self, uuid: &str) -> Option<Health> {
        let uuid = CString::new(uuid).ok()?;
        let mut device = ptr::null_mut();
        // SAFETY: the UUID ends in a zero, and the device is written during the call only.
        if unsafe { (self.functions.by_uuid)(uuid.as_ptr(), &raw mut device) } != SUCCESS {
            return None;
        }
        let memory = read(|memory| {
            // SAFETY: the device is the library's, and the memory is written during the call only.
            unsafe { (self.functions.memory)(device, memory) }
        });
        // SAFETY: as above.
        let power = read(|milliwatts| unsafe { (self.functions.power)(device, milliwatts) });
        // SAFETY: as above.
        let temperature = read(|celsius| unsafe { (self.functions.temperature)(device, ON_DIE, celsius) });
        let utilization = read(|utilization: *mut Utilization| {
            // SAFETY: as above.
            unsafe { (self.functions.utilization)(device, utilization) }
        });
        Some(Health {
            memory_used: memory.map(|memory: MemoryInfo| memory.used),
            memory: memory.map(|memory| memory.total),
            power_watts: power.map(|milliwatts: c_uint| f64::from(milliwatts) / 1000.0),
            temperature_celsius: temperature,
            utilization: utilization.map(|utilization| f64::from(utilization.gpu) / 100.0),
        })
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: it was started once.
        let _: c_int = unsafe { (self.functions.shutdown)() };
    }
}

impl Functions {
    /// # Safety
    /// The library is NVIDIA's.
    unsafe fn of(library: &libloading::Library) -> Result<Self, libloading::Error> {
        // SAFETY: the types are those of the library's header, as the caller promises.
        unsafe {
            Ok(Self {
                shutdown: *library.get("nvmlShutdown")?,
                by_uuid: *library.get("nvmlDeviceGetHandleByUUID")?,
                memory: *library.get("nvmlDeviceGetMemoryInfo")?,
                power: *library.get("nvmlDeviceGetPowerUsage")?,
                temperature: *library.get("nvmlDeviceGetTemperature")?,
                utilization: *library.get("nvmlDeviceGetUtilizationRates")?,
            })
        }
    }
}

/// What a function writes, if it succeeds.
fn read<T: Default>(ask: impl FnOnce(*mut T) -> c_int) -> Option<T> {
    let mut value = T::default();
    (ask(&raw mut value) == SUCCESS).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_health_is_of_gpus_that_are_there_and_without_the_library_of_none() {
        if let Some(nvml) = Nvml::open() {
            assert_eq!(nvml.health("GPU-00000000-0000-0000-0000-000000000000"), None);
            assert_eq!(nvml.health("with a \0 zero"), None);
        }
    }
}
