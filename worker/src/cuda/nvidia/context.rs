//! The context that everything of a device is in.

use std::ptr;

use cudarc::driver::sys;

use super::{DriverError, fault, warn_of};

/// The device's primary context, held.
#[derive(Debug)]
pub(super) struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
}

impl Context {
    /// Also makes it this thread's.
    pub(super) fn hold(device: sys::CUdevice) -> Result<Self, DriverError> {
        // A thread that waits sleeps, where it would else keep a core from others. It holds for who comes first to the
        // device, which is this process alone.
        // SAFETY: the device is one of the driver's.
        let set = unsafe {
            sys::cuDevicePrimaryCtxSetFlags_v2(device, sys::CUctx_flags_enum::CU_CTX_SCHED_BLOCKING_SYNC as u32)
        };
        if set != sys::CUresult::CUDA_SUCCESS {
            tracing::debug!(error = ?set, "threads that wait for the GPU may spin");
        }
        let mut context = ptr::null_mut();
        // SAFETY: as above, and the context is written during the call only.
        let held = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) };
        fault::check(held, format_args!("making a context"))?;
        let this = Self { device, raw: context };
        fault::check(this.set(), format_args!("choosing the context"))?;
        Ok(this)
    }

    /// Makes it this thread's.
    pub(super) fn set(&self) -> sys::CUresult {
        // SAFETY: it is held for as long as `self` is there.
        unsafe { sys::cuCtxSetCurrent(self.raw) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was held once. All that was in it is given back, or lost with it.
        let released = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
        warn_of(fault::check(released, format_args!("leaving the context")));
    }
}
