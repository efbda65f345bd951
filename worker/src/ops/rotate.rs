//! Rotary positions: queries and keys of packed sequences, turned by where their tokens stand; `qkv` in and out.
//!
//! In each head of width D of queries and of keys, after its norm if it has one, numbers d and D/2 + d are the two sides of
//! a point that is turned by the angle `p · base^(-2d/D)` about the origin, p being the place of the token in its sequence.
//! Values are left as they are. So a query and a key are multiplied by how far apart they stand, wherever that is.
//!
//! Angles are products of numbers in f32, as they are where models are trained.

pub(crate) mod angles;
pub(crate) mod candle;
#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(any(test, feature = "gpu-check"))]
pub(crate) mod reference;
