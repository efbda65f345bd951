//! What kernels for NVIDIA's GPUs need: the driver behind a seam, memory that frees itself, kernels compiled when they are
//! first wanted. No op and no model is known here.
//!
//! Every `unsafe` of the engine is in here or in an op's launcher. What makes launches safe is said once, at
//! [`driver::Driver`].

#[cfg(any(test, feature = "gpu-check"))]
pub(crate) mod bench;
mod cache;
mod compile;
#[cfg(all(any(test, feature = "emulator"), target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod double;
pub(crate) mod driver;
pub(crate) mod element;
#[cfg(all(feature = "emulator", target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod emulated;
pub(crate) mod health;
pub(crate) mod ledger;
pub(crate) mod library;
pub(crate) mod memory;
pub(crate) mod nvidia;
pub(crate) mod queue;
pub(crate) mod slot;
mod sources;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes what nobody who panics leaves half-written.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
