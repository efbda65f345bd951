//! NVIDIA's run-time compiler, which needs neither a GPU nor a driver.
//!
//! `.ci/tools` installs it into a folder that `$SHOAL_TOOLS` names; one that the system finds by itself serves as well. A
//! test without it says that it was skipped, and fails where `SHOAL_TEST_TOOLS=required`, as `.ci/run` sets it.

use std::ffi::{CStr, CString};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::nvrtc::{result, sys};

/// Opened and ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nvrtc(());

/// What a program was compiled to.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) cubin: Vec<u8>,
    pub(crate) log: String,
}

/// The builtins are found by the compiler only if they are open before it.
const LIBRARIES: [&str; 2] = ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"];

impl Nvrtc {
    pub(crate) fn open() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        let found = *FOUND.get_or_init(|| {
            if let Some(tools) = std::env::var_os("SHOAL_TOOLS").map(PathBuf::from) {
                for library in LIBRARIES {
                    // SAFETY: what this loads is NVIDIA's own library, whose initialisers touch nothing of ours.
                    if let Ok(library) = unsafe { libloading::Library::new(tools.join("nvrtc").join(library)) } {
                        // Open for as long as the process: cudarc finds it by its name.
                        std::mem::forget(library);
                    }
                }
            }
            // SAFETY: as above.
            unsafe { sys::is_culib_present() }
        });
        if found {
            return Some(Self(()));
        }
        let required = std::env::var("SHOAL_TEST_TOOLS").is_ok_and(|value| value == "required");
        assert!(!required, "NVRTC is required and not installed; .ci/tools installs it");
        // Past the test harness, which would keep it from being seen.
        let _ = writeln!(std::io::stderr(), "SKIPPED for want of NVRTC: .ci/tools installs it");
        None
    }

    /// Compiles one file for one capability, such as `sm_90`. Headers are given by name and text.
    pub(crate) fn cubin(
        self,
        name: &str,
        source: &str,
        headers: &[(&str, &str)],
        capability: &str,
    ) -> Result<Compiled, String> {
        let text = |text: &str| CString::new(text).expect("sources have no zeros");
        let (source, name) = (text(source), text(name));
        let headers: Vec<(CString, CString)> =
            headers.iter().map(|(name, source)| (text(name), text(source))).collect();
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let sources: Vec<_> = headers.iter().map(|(_, source)| source.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        // SAFETY: all strings end in a zero and live until the program is made, and there are as many headers as names.
        let made = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program,
                source.as_ptr(),
                name.as_ptr(),
                i32::try_from(headers.len()).expect("a few headers"),
                sources.as_ptr(),
                names.as_ptr(),
            )
        };
        made.result().map_err(said)?;
        let options = [format!("--gpu-architecture={capability}"), "--std=c++17".into(), "--ptxas-options=-v".into()];
        // SAFETY: the program was just made and is destroyed below, once.
        let (compiled, log) = unsafe {
            let compiled = result::compile_program(program, &options);
            (compiled, result::get_program_log(program).map_err(said)?)
        };
        // SAFETY: the compiler ends its log in a zero.
        let log = unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy().into_owned();
        compiled.map_err(|error| format!("{}\n{log}", said(error)))?;
        let mut cubin = Vec::new();
        // SAFETY: the program was compiled; `cubin` has room for the size it says. Nobody uses the program after.
        unsafe {
            let mut size = 0;
            sys::nvrtcGetCUBINSize(program, &raw mut size).result().map_err(said)?;
            cubin.resize(size, 0u8);
            sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast()).result().map_err(said)?;
            result::destroy_program(program).map_err(said)?;
        }
        Ok(Compiled { cubin, log })
    }
}

fn said(error: result::NvrtcError) -> String {
    format!("{:?}", error.0)
}
