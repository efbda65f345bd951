//! `x[t] = layer_norm(x[t] + residual[t]) · gain + shift`, in place: the end of every block of an encoder.

pub(crate) mod candle;
#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(any(test, feature = "gpu-check"))]
pub(crate) mod reference;
