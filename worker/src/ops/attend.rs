//! Multi-head self-attention over packed sequences: `qkv` [T, 3H] in, [T, H] out. A token attends to all tokens of its
//! own sequence and to no other, so there is no padding and no mask.
//!
//! Row t of `qkv` holds query, key and value of token t, each H = heads · D wide, head after head.
//! `out[i, h] = Σ_j softmax_j(scale · q[i, h] · k[j, h]) v[j, h]`

pub(crate) mod candle;
#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(any(test, feature = "gpu-check"))]
pub(crate) mod reference;
