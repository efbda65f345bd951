//! `x[t, f] = activation(x[t, f] + bias[f])`, in place. What follows a matrix product.

pub(crate) mod candle;
#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
#[cfg(test)]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod emulated;
#[cfg(test)]
pub(crate) mod reference;
