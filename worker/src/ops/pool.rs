//! `y[n] = pool(x[first of n..end of n])`: [T, H] in, [N, H] out. One vector for each sequence.

pub(crate) mod candle;
#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(any(test, feature = "gpu-check"))]
pub(crate) mod reference;
