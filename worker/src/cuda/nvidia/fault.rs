//! What the driver's errors mean.

use std::ffi::CStr;
use std::fmt::Arguments;
use std::ptr;

use cudarc::driver::sys::{self, CUresult};

use super::DriverError;

/// What an error means to whoever called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    OutOfMemory,
    Failed,
    /// The context, or the device, is of no use any more: every later call answers the same.
    Broken,
}

/// None if there is no error.
pub(super) fn kind(result: CUresult) -> Option<Kind> {
    Some(match result {
        CUresult::CUDA_SUCCESS => return None,
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Kind::OutOfMemory,
        // A kernel went wrong, and took the context with it.
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | CUresult::CUDA_ERROR_ASSERT
        | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUresult::CUDA_ERROR_INVALID_PC
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_TENSOR_MEMORY_LEAK
        // The device did.
        | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
        | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUresult::CUDA_ERROR_CONTAINED
        | CUresult::CUDA_ERROR_EXTERNAL_DEVICE
        // It is gone, or not ours any more.
        | CUresult::CUDA_ERROR_DEINITIALIZED
        | CUresult::CUDA_ERROR_NO_DEVICE
        | CUresult::CUDA_ERROR_INVALID_DEVICE
        | CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE
        | CUresult::CUDA_ERROR_INVALID_CONTEXT
        | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUresult::CUDA_ERROR_SYSTEM_NOT_READY
        | CUresult::CUDA_ERROR_KEY_ROTATION
        | CUresult::CUDA_ERROR_MPS_CONNECTION_FAILED
        | CUresult::CUDA_ERROR_MPS_RPC_FAILURE
        | CUresult::CUDA_ERROR_MPS_CLIENT_TERMINATED
        // What a device that fell off the bus answers.
        | CUresult::CUDA_ERROR_UNKNOWN => Kind::Broken,
        _ => Kind::Failed,
    })
}

/// Where there is no context yet that could be broken.
pub(super) fn check(result: CUresult, doing: Arguments<'_>) -> Result<(), DriverError> {
    match kind(result) {
        None => Ok(()),
        Some(_) => Err(DriverError::Failed(line(result, doing))),
    }
}

/// In one line: what was being done, the driver's words, and the error's name. A kernel's error is found by whatever
/// comes next.
pub(super) fn line(result: CUresult, doing: Arguments<'_>) -> String {
    let mut words = ptr::null();
    // SAFETY: an error can only be of a driver that is there. The pointer is written during the call only.
    let found = unsafe { sys::cuGetErrorString(result, &raw mut words) };
    if found != CUresult::CUDA_SUCCESS || words.is_null() {
        return format!("while {doing}: {result:?}");
    }
    // SAFETY: it is a string of the driver's, which ends in a zero and stays.
    let words = unsafe { CStr::from_ptr(words) }.to_string_lossy();
    format!("while {doing}: {words} ({result:?})")
}
