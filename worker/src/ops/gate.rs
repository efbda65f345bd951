//! A gated activation: `x` [R, 2W] in, [R, W] out, `out[r, i] = activation(x[r, i]) · x[r, W + i]`.

pub(crate) mod candle;
#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(any(test, feature = "gpu-check"))]
pub(crate) mod reference;
