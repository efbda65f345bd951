//! What plans are made of. Each op is a contract (shapes, what it writes), a naive reference loop that is the
//! specification, and a version for each executor; tests hold them together. candle's matrix products are its own.
//!
//! Ops know no model, and nothing of sequences being requests. All matrices are row-major.

pub(crate) mod activate;
pub(crate) mod attend;
pub(crate) mod embed;
#[cfg(test)]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod emulation;
pub(crate) mod gate;
pub(crate) mod gemm;
mod math;
pub(crate) mod normalize;
pub(crate) mod pick;
#[cfg(target_arch = "x86_64")]
mod places;
pub(crate) mod pool;
pub(crate) mod rotate;
mod rows;
pub(crate) mod softmax;
pub(crate) mod top;

use candle_core::{CpuStorage, Layout, Result, bail};
use pulp::{Arch, NullaryFnOnce};

/// Runs a loop compiled for the widest vectors this processor has. The closure must be `#[inline(always)]`, and so must
/// all it calls, or they keep the narrow code every processor runs.
fn vectorize(work: impl FnMut()) {
    struct Loop<F>(F);

    impl<F: FnMut()> NullaryFnOnce for Loop<F> {
        type Output = ();

        // Through `FnMut`, which is the closure itself; `FnOnce` would be a shim that is not inlined.
        #[inline(always)]
        fn call(mut self) {
            (self.0)();
        }
    }

    Arch::new().dispatch(Loop(work));
}

/// The values of a contiguous f32 tensor.
fn values<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("{op}: takes contiguous f32 only"),
    }
}

/// The values of a contiguous f32 tensor, to be changed.
fn values_mut<'a>(op: &str, storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("{op}: takes contiguous f32 only"),
    }
}

/// A bias, gain or table must be as long as the rows it is for.
fn expect_len(op: &str, what: &str, found: usize, expected: usize) -> Result<()> {
    if found != expected {
        bail!("{op}: {what} is {found} long, not {expected}");
    }
    Ok(())
}
