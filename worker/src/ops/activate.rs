//! `x[t, f] = activation(x[t, f] + bias[f])`, in place. What follows a matrix product.

pub(crate) mod candle;
#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(any(test, feature = "gpu-check"))]
pub(crate) mod reference;
