//! `out[r, l] = activation(Σ_k left[r, k] · weight[l, k] + bias[l])`: `[R, K]` and `[L, K]` in, `[R, L]` out. Where nearly
//! all of a model's time goes.
//!
//! Sums over k are taken in rising order in one accumulator, so a row is the same bits whatever rows and columns are
//! computed beside it.

pub(crate) mod bytes;
#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(target_arch = "x86_64")]
pub(crate) mod finish;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pack;
#[cfg(target_arch = "x86_64")]
pub(crate) mod quantise;
#[cfg(test)]
pub(crate) mod reference;
#[cfg(target_arch = "x86_64")]
pub(crate) mod round;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tile;
