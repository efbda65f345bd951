//! `y[m] = x[marks[m]]`: [T, H] in, [M, H] out. The rows of marked tokens, in order.

pub(crate) mod cpu;
#[cfg(test)]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod emulated;
#[cfg(test)]
pub(crate) mod reference;
