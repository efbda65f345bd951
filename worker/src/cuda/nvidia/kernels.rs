//! Kernels, loaded when they are first wanted.

use std::collections::HashMap;
use std::ffi::CString;
use std::ptr;
use std::sync::PoisonError;

use cudarc::driver::sys;

use super::{DriverError, Nvidia};
use crate::cuda::compile;
use crate::cuda::driver::Kernel;

/// What was compiled and loaded.
#[derive(Debug, Default)]
pub(super) struct Kernels {
    functions: HashMap<Kernel, sys::CUfunction>,
    pub(super) modules: Vec<sys::CUmodule>,
}

impl Nvidia {
    /// A kernel, compiled and loaded with its file if it never ran.
    pub(super) fn function(&self, kernel: Kernel) -> Result<sys::CUfunction, DriverError> {
        let find = |kernels: &Kernels| kernels.functions.get(&kernel).copied();
        if let Some(function) = find(&self.kernels.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(function);
        }
        // Held meanwhile, so that nobody else compiles the same.
        let mut kernels = self.kernels.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = find(&kernels) {
            return Ok(function);
        }
        let missing = || DriverError::Failed(format!("there is no kernel {kernel}"));
        let file = compile::file_of(kernel).ok_or_else(missing)?;
        let code = self.compiler.compile(file, kernel.element);
        let code = code.map_err(|error| DriverError::Failed(error.to_string()))?;
        let mut module = ptr::null_mut();
        // SAFETY: the code is a whole cubin, or PTX that ends in a zero; the driver copies what it needs of it.
        let loaded = unsafe { sys::cuModuleLoadData(&raw mut module, code.as_ptr().cast()) };
        self.check_room(loaded, code.len(), format_args!("loading {}", file.name))?;
        kernels.modules.push(module);
        for name in file.kernels {
            let c_name = CString::new(*name).expect("names have no zeros");
            let mut function = ptr::null_mut();
            // SAFETY: the module is loaded, and the name ends in a zero.
            let found = unsafe { sys::cuModuleGetFunction(&raw mut function, module, c_name.as_ptr()) };
            self.check(found, format_args!("looking for {name} in {}", file.name))?;
            kernels.functions.insert(Kernel { name, element: kernel.element }, function);
        }
        find(&kernels).ok_or_else(missing)
    }
}
