//! `y[n] = pool(x[first of n..end of n])`: [T, H] in, [N, H] out. One vector for each sequence.

pub(crate) mod candle;
#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
#[cfg(test)]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod emulated;
#[cfg(test)]
pub(crate) mod reference;
