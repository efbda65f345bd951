//! `x[t] = layer_norm(words[id[t]] + positions[place of t in its sequence] + types[type[t]])`: `[T]` ids in, `[T, H]` out.

pub(crate) mod candle;
#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(any(test, feature = "gpu-check"))]
pub(crate) mod reference;
