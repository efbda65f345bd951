//! Kernels from their sources, by NVIDIA's run-time compiler, for the GPU at hand.
//!
//! Machine code (a cubin) is asked of the compiler rather than PTX: a driver older than the compiler refuses its PTX,
//! and what a driver compiles cannot be looked at before.

#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString, c_char};
use std::fmt;

use cudarc::nvrtc::sys;

use super::cache::{KernelCache, Key};
use super::driver::Kernel;
use super::element::Element;
use super::library::Version;
use super::sources::{FILES, HEADERS, KernelFile};

/// For the language; what the code is for comes before it.
const OPTIONS: [&str; 1] = ["--std=c++17"];

/// What files are compiled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Machine code for one capability: 90 is 9.0.
    Cubin(u32),
    /// PTX for a capability and all later ones. The driver compiles it when it is loaded.
    Ptx(u32),
}

/// The compiler, for one GPU.
#[derive(Debug)]
pub(crate) struct Compiler {
    nvrtc: Nvrtc,
    target: Target,
    cache: Option<KernelCache>,
}

/// Why a file has no code.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{file} does not compile for {target}: {said}")]
pub(crate) struct CompileError {
    /// And what it was compiled for.
    file: String,
    target: Target,
    /// The compiler's words.
    said: String,
}

/// NVRTC, which is open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nvrtc {
    version: Version,
}

impl Target {
    /// For a GPU of `capability`, by a compiler that knows those of `known`. All kernels are written for 8.0, so a GPU
    /// newer than the compiler runs what was meant for that.
    pub(crate) fn of(capability: (u32, u32), known: &[u32]) -> Self {
        let own = capability.0 * 10 + capability.1;
        if known.contains(&own) { Self::Cubin(own) } else { Self::Ptx(80) }
    }
}

/// As the compiler has it.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cubin(capability) => write!(f, "sm_{capability}"),
            Self::Ptx(capability) => write!(f, "compute_{capability}"),
        }
    }
}

impl Compiler {
    /// For a GPU of `capability`. Without a cache everything is compiled at each start.
    pub(crate) fn new(nvrtc: Nvrtc, capability: (u32, u32), cache: Option<KernelCache>) -> Self {
        Self { nvrtc, target: Target::of(capability, &nvrtc.capabilities()), cache }
    }

    /// What the driver loads, for a kind of number if the file is written for any: a cubin, or PTX that ends in a zero.
    pub(crate) fn compile(&self, file: &KernelFile, element: Option<Element>) -> Result<Vec<u8>, CompileError> {
        let target = self.target;
        let compile = || {
            let began = std::time::Instant::now();
            let code = self.nvrtc.compile(file, element, target).map_err(|said| CompileError {
                file: version_name(file, element),
                target,
                said,
            })?;
            tracing::debug!(file = version_name(file, element), %target, took = ?began.elapsed(), "compiled kernels");
            Ok(code)
        };
        match &self.cache {
            Some(cache) => cache.find_or(&key(file, element, target, self.nvrtc.version), compile),
            None => compile(),
        }
    }
}

/// The file that a kernel is in.
pub(crate) fn file_of(kernel: Kernel) -> Option<&'static KernelFile> {
    FILES.iter().find(|file| file.kernels().any(|other| other == kernel))
}

/// A file and what it is compiled for.
fn version_name(file: &KernelFile, element: Option<Element>) -> String {
    element.map_or_else(|| file.name.to_owned(), |element| format!("{}.{element}", file.name))
}

/// Names what a file compiles to.
fn key(file: &KernelFile, element: Option<Element>, target: Target, version: Version) -> Key {
    let (name, target, version) = (version_name(file, element), target.to_string(), version.to_string());
    let headers = HEADERS.iter().flat_map(|(name, text)| [*name, *text]);
    let parts = [name.as_str(), file.source, &target, &version].into_iter().chain(OPTIONS).chain(headers);
    Key::new(&format!("{name}-{target}"), parts)
}

/// Makes a kind of number the one that a file is written for.
fn definition(element: Option<Element>) -> Option<String> {
    element.map(|element| format!("--define-macro=NUMBER={element}"))
}

impl Nvrtc {
    /// If it is there.
    pub(super) fn open() -> Option<Self> {
        // SAFETY: what this loads is NVIDIA's own library, whose initialisers touch nothing of ours.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the library is there, and both are written to during the call only.
        let asked = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
        asked.result().ok()?;
        Some(Self { version: Version::new(major.unsigned_abs(), minor.unsigned_abs()) })
    }

    pub(super) fn version(self) -> Version {
        self.version
    }

    /// Those it makes machine code for: 90 is 9.0. None if it does not say.
    fn capabilities(self) -> Vec<u32> {
        let mut count = 0;
        // SAFETY: the library is there, as `self` is; the number is written during the call only.
        let counted = unsafe { sys::nvrtcGetNumSupportedArchs(&raw mut count) };
        let mut known = vec![0; usize::try_from(count).unwrap_or_default()];
        // SAFETY: as above, and there is room for as many as it just said.
        let listed =
            counted.result().and_then(|()| unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) }.result());
        match listed {
            Ok(()) => known.into_iter().map(i32::unsigned_abs).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Compiles one file.
    fn compile(self, file: &KernelFile, element: Option<Element>, target: Target) -> Result<Vec<u8>, String> {
        let program = Program::new(file.name, file.source, &HEADERS)?;
        program.compile(&target.to_string(), definition(element).as_deref().as_slice())?;
        match target {
            Target::Cubin(_) => program.read(sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN),
            Target::Ptx(_) => program.read(sys::nvrtcGetPTXSize, sys::nvrtcGetPTX),
        }
    }
}

/// A file inside the compiler.
struct Program(sys::nvrtcProgram);

impl Program {
    fn new(name: &str, source: &str, headers: &[(&str, &str)]) -> Result<Self, String> {
        let (name, source) = (text(name), text(source));
        let headers: Vec<_> = headers.iter().map(|(name, source)| (text(name), text(source))).collect();
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let sources: Vec<_> = headers.iter().map(|(_, source)| source.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        // SAFETY: all strings end in a zero and live until the program is made, which copies them; there are as many
        // headers as names.
        let made = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program,
                source.as_ptr(),
                name.as_ptr(),
                count(headers.len()),
                sources.as_ptr(),
                names.as_ptr(),
            )
        };
        made.result().map_err(|error| format!("{error:?}"))?;
        Ok(Self(program))
    }

    /// Compiles it for an architecture, as the compiler has it, with [`OPTIONS`] and more.
    fn compile(&self, architecture: &str, more: &[&str]) -> Result<(), String> {
        let architecture = format!("--gpu-architecture={architecture}");
        let options: Vec<CString> =
            OPTIONS.iter().chain([&architecture.as_str()]).chain(more).map(|option| text(option)).collect();
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the program is alive, and there are as many options as said, which live until after the call.
        let compiled = unsafe { sys::nvrtcCompileProgram(self.0, count(options.len()), options.as_ptr()) };
        compiled.result().map_err(|error| format!("{error:?}\n{}", self.log()))
    }

    /// What the compiler said while compiling it.
    fn log(&self) -> String {
        let log = self.read(sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog).unwrap_or_default();
        CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What the compiler has of the program: `get_size` says how long it is, `get` copies it.
    fn read(
        &self,
        get_size: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
        get: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
    ) -> Result<Vec<u8>, String> {
        let mut size = 0;
        // SAFETY: the program is alive, and the number is written during the call only.
        unsafe { get_size(self.0, &raw mut size) }.result().map_err(|error| format!("{error:?}"))?;
        let mut bytes = vec![0; size];
        // SAFETY: as above, and there is room for as many bytes as it just said.
        unsafe { get(self.0, bytes.as_mut_ptr().cast()) }.result().map_err(|error| format!("{error:?}"))?;
        Ok(bytes)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was made in `new` and is destroyed only here. That it could fail is of no use to anybody.
        let _: sys::nvrtcResult = unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}

fn text(text: &str) -> CString {
    CString::new(text).expect("sources and options have no zeros")
}

fn count(count: usize) -> i32 {
    i32::try_from(count).expect("a few headers or options")
}
