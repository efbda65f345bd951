//! Multi-head self-attention over packed sequences: `qkv` in, [T, heads · D] out. A token attends to tokens of its own
//! sequence and to no other, so there is no padding; a mask may keep it to those before it, or near it.
//!
//! Row t of `qkv` holds the queries, keys and values of token t, head after head; several heads of queries may share one of
//! keys and values. `out[i, h] = Σ_j softmax_j(scale · q[i, h] · k[j, h]) v[j, h]`

pub(crate) mod candle;
#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(any(test, feature = "gpu-check"))]
pub(crate) mod reference;
