//! `x[t] = layer_norm(x[t] + residual[t]) · gain + shift`, in place: the end of every block of an encoder.

pub(crate) mod candle;
#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
#[cfg(test)]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod emulated;
#[cfg(test)]
pub(crate) mod reference;
