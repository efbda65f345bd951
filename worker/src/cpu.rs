//! What kernels for processors are made of: instruction sets, vectors, dot products, memory and threads. No op and no
//! model is known here.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod dot;
pub(crate) mod isa;
pub(crate) mod memory;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pace;
pub(crate) mod simd;
pub(crate) mod team;
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
pub(crate) mod testing;
