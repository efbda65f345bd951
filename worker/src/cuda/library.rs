//! NVIDIA's libraries, which are opened at run time: what is there, whether it goes together, and if not, why.
//!
//! Nothing may be called of a library that these functions did not answer for: a call of one that is missing panics.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use cudarc::cublaslt::sys as lt;
use cudarc::driver::sys;

use super::compile::Nvrtc;

/// Folders to open libraries from before the system's own are looked for, separated as those in `PATH`. A Python
/// package has its libraries where the system does not look.
const FOLDERS: &str = "SHOAL_CUDA_LIBRARIES";

/// The oldest driver that has all we call, and that the compilers of CUDA 12.8 and newer go with.
const DRIVER_MIN: Version = Version::new(12, 8);

/// The oldest of libraries that are not the driver.
const LIBRARY_MAJOR_MIN: u32 = 12;

/// Beginnings of the names of what is opened from [`FOLDERS`]. The compiler finds its builtins only if they are open
/// before.
const LIBRARIES: [&str; 3] = ["libnvrtc-builtins.so", "libnvrtc.so", "libcublasLt.so"];

/// Of CUDA, major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
}

/// Why there is no GPU to compute on, in one line.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum NoCuda {
    #[error("no CUDA: libcuda.so.1 (the NVIDIA driver) is not found")]
    NoDriver,
    #[error("CUDA needs driver {min} or newer, and this one is {version}", min = DRIVER_MIN)]
    OldDriver { version: Version },
    /// The driver is there and does not work.
    #[error("no CUDA: {0}")]
    Driver(String),
    #[error("no CUDA: the driver finds no GPU")]
    NoDevice,
    #[error("there is no GPU {ordinal}: the driver finds {count}, counted from 0")]
    NoSuchDevice { ordinal: u32, count: u32 },
    #[error("there is no GPU {uuid} among the {count} that the driver finds")]
    NoSuchUuid { uuid: String, count: usize },
    #[error("{name} has compute capability {}.{}, and 8.0 or newer is needed", .capability.0, .capability.1)]
    OldDevice { name: String, capability: (u32, u32) },
    #[error(
        "{library} is not found: install the CUDA 12 or 13 runtime libraries, or `pip install {package}` and name the \
         folder it lies in by {folders}",
        folders = FOLDERS
    )]
    NoLibrary { library: &'static str, package: &'static str },
    #[error(
        "{library} of CUDA {version} does not go with this driver, which is for CUDA {driver}: one of CUDA {min} to {} \
         is needed",
        .driver.major,
        min = LIBRARY_MAJOR_MIN
    )]
    WrongLibrary { library: &'static str, version: Version, driver: Version },
}

impl Version {
    pub(crate) const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Of a driver: 12080 is 12.8.
    fn of_driver(number: u32) -> Self {
        Self::new(number / 1000, number % 1000 / 10)
    }

    /// Of cublas: 120805 is 12.8.
    fn of_cublas(number: usize) -> Self {
        let number = u32::try_from(number).unwrap_or_default();
        Self::new(number / 10_000, number % 10_000 / 100)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Opens the driver and makes it ready. Answers what CUDA it is for.
pub(crate) fn driver() -> Result<Version, NoCuda> {
    // SAFETY: what this loads is NVIDIA's own library, whose initialisers touch nothing of ours.
    if !unsafe { sys::is_culib_present() } {
        return Err(NoCuda::NoDriver);
    }
    let mut number = 0;
    // SAFETY: the library is there, and the number is written during the call only.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut number) };
    let version = check_driver(asked, Version::of_driver(number.unsigned_abs()))?;
    // SAFETY: the library is there.
    match unsafe { sys::cuInit(0) } {
        sys::CUresult::CUDA_SUCCESS => Ok(version),
        sys::CUresult::CUDA_ERROR_NO_DEVICE => Err(NoCuda::NoDevice),
        error => Err(NoCuda::Driver(format!("the NVIDIA driver does not start: {error:?}"))),
    }
}

/// What it says of its version is believed if it could say it at all.
fn check_driver(asked: sys::CUresult, version: Version) -> Result<Version, NoCuda> {
    match asked {
        sys::CUresult::CUDA_SUCCESS if version < DRIVER_MIN => Err(NoCuda::OldDriver { version }),
        sys::CUresult::CUDA_SUCCESS => Ok(version),
        error => Err(NoCuda::Driver(format!("the NVIDIA driver does not say its version: {error:?}"))),
    }
}

/// Opens the compiler, to be used with a driver of version `driver`.
pub(crate) fn nvrtc(driver: Version) -> Result<Nvrtc, NoCuda> {
    open_named();
    let library = "libnvrtc";
    let nvrtc = Nvrtc::open().ok_or(NoCuda::NoLibrary { library, package: "nvidia-cuda-nvrtc" })?;
    check_library(library, nvrtc.version(), driver)?;
    Ok(nvrtc)
}

/// Opens cublasLt, to be used with a driver of version `driver`.
pub(crate) fn cublas_lt(driver: Version) -> Result<(), NoCuda> {
    open_named();
    let library = "libcublasLt";
    // SAFETY: what this loads is NVIDIA's own library, whose initialisers touch nothing of ours.
    if !unsafe { lt::is_culib_present() } {
        return Err(NoCuda::NoLibrary { library, package: "nvidia-cublas" });
    }
    // SAFETY: the library is there.
    let version = Version::of_cublas(unsafe { lt::cublasLtGetVersion() });
    check_library(library, version, driver)
}

/// A driver runs the code of its own major version and of older ones.
fn check_library(library: &'static str, version: Version, driver: Version) -> Result<(), NoCuda> {
    if (LIBRARY_MAJOR_MIN..=driver.major).contains(&version.major) {
        Ok(())
    } else {
        Err(NoCuda::WrongLibrary { library, version, driver })
    }
}

/// Opens what lies in the folders that the environment names.
fn open_named() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Some(folders) = std::env::var_os(FOLDERS) {
            open_in(&std::env::split_paths(&folders).collect::<Vec<_>>());
        }
    });
}

/// Opens what lies in `folders`, for as long as the process lives: who looks for a library by its name then finds this
/// one.
pub(super) fn open_in(folders: &[PathBuf]) {
    for library in LIBRARIES {
        // SAFETY: what this loads is NVIDIA's own library, whose initialisers touch nothing of ours.
        let open = |path: &PathBuf| unsafe { libloading::Library::new(path) };
        let opened = folders.iter().flat_map(|folder| versions(folder, library)).find_map(|path| open(&path).ok());
        std::mem::forget(opened);
    }
}

/// What lies in `folder` of a library, the newest by its name first.
fn versions(folder: &Path, library: &str) -> Vec<PathBuf> {
    let is_it = |name: &OsString| {
        let rest = name.to_str().and_then(|name| name.strip_prefix(library));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let names = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
    let mut names: Vec<_> = names.filter(is_it).collect();
    names.sort_by(|one, other| other.cmp(one));
    names.into_iter().map(|name| folder.join(name)).collect()
}
