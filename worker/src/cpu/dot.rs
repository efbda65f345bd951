//! Dot products of many columns at once: the one thing all matrix products and attention are made of. A kind of dot
//! product is an element type and the instruction for it; tiles, packing and epilogues are written once, over [`Dot`].
//!
//! The left operand is read in words of 32 bits: one `f32`, two bfloat16 or four bytes, which lie next to each other in a
//! row. The right operand is packed, so that one vector holds the words of [`Simd::LANES`] columns for the same rows. One
//! step multiplies a word, broadcast, with such a vector and adds to one accumulator lane per column.
//!
//! A lane takes in its words in rising order whatever tile it is in, so a sum does not depend on how many rows or columns
//! are computed beside it.

#![expect(clippy::undocumented_unsafe_blocks, reason = "what each method needs is what its trait says")]
#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "intrinsics have names of their own"))]

use std::arch::x86_64::*;

use half::bf16;

use super::avx2::Avx2;
use super::avx512::{Avx512, Avx512Narrow};
use super::simd::Simd;

/// A kind of dot product.
///
/// # Safety
/// Methods may be called only within [`Dot::run`] of the same type, on a processor that has its instructions.
pub(crate) trait Dot: Copy + std::fmt::Debug + 'static {
    /// What sums become, and what attends to everything else.
    type V: Simd;
    /// Element of the left operand: `f32`, bfloat16 bits, or `u8`.
    type Element: Copy + Default + std::fmt::Debug + Send + Sync;
    /// A word for each lane: the right operand's, or the left's broadcast.
    type Words: Copy + Send + Sync;
    /// Sums, one for each lane.
    type Sums: Copy;
    /// Elements in a word.
    const DEPTH: usize;
    /// Rows of the largest tile: with [`VECTORS`] vectors of columns, as many as the registers hold.
    const ROWS: usize;

    /// Calls a closure compiled for these instructions; see [`Simd::run`].
    unsafe fn run<R>(work: impl FnOnce() -> R) -> R;

    unsafe fn zero() -> Self::Sums;
    /// The words of one vector of packed columns; aligned.
    unsafe fn load(from: *const Self::Words) -> Self::Words;
    /// One word in every lane; need not be aligned.
    unsafe fn broadcast(word: *const u32) -> Self::Words;
    /// `sums + left · right` in each lane.
    unsafe fn dot(sums: Self::Sums, left: Self::Words, right: Self::Words) -> Self::Sums;
}

/// Vectors of columns in a tile, and in a panel of packed columns.
pub(crate) const VECTORS: usize = 3;

/// `f32` by fused multiply-add, on the vectors of `V`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F32<V>(std::marker::PhantomData<V>);

/// bfloat16 pairs into `f32` sums (`vdpbf16ps`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bf16;

/// Unsigned by signed bytes into `i32` sums (`vpdpbusd`), exact.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8;

impl Dot for F32<Avx512> {
    type V = Avx512;
    type Element = f32;
    type Words = __m512;
    type Sums = __m512;
    const DEPTH: usize = 1;
    const ROWS: usize = 8;

    #[inline(always)]
    unsafe fn run<R>(work: impl FnOnce() -> R) -> R {
        unsafe { Avx512::run(work) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: *const __m512) -> __m512 {
        unsafe { _mm512_load_ps(from.cast()) }
    }

    #[inline(always)]
    unsafe fn broadcast(word: *const u32) -> __m512 {
        unsafe { _mm512_set1_ps(word.cast::<f32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m512, left: __m512, right: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(left, right, sums) }
    }
}

impl Dot for F32<Avx2> {
    type V = Avx2;
    type Element = f32;
    type Words = __m256;
    type Sums = __m256;
    const DEPTH: usize = 1;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn run<R>(work: impl FnOnce() -> R) -> R {
        unsafe { Avx2::run(work) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: *const __m256) -> __m256 {
        unsafe { _mm256_load_ps(from.cast()) }
    }

    #[inline(always)]
    unsafe fn broadcast(word: *const u32) -> __m256 {
        unsafe { _mm256_set1_ps(word.cast::<f32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m256, left: __m256, right: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(left, right, sums) }
    }
}

impl Dot for Bf16 {
    type V = Avx512Narrow;
    type Element = bf16;
    type Words = __m512i;
    type Sums = __m512;
    const DEPTH: usize = 2;
    const ROWS: usize = 8;

    #[inline(always)]
    unsafe fn run<R>(work: impl FnOnce() -> R) -> R {
        unsafe { Avx512Narrow::run(work) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: *const __m512i) -> __m512i {
        unsafe { _mm512_load_si512(from) }
    }

    #[inline(always)]
    unsafe fn broadcast(word: *const u32) -> __m512i {
        unsafe { _mm512_set1_epi32(word.read_unaligned().cast_signed()) }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m512, left: __m512i, right: __m512i) -> __m512 {
        unsafe { _mm512_dpbf16_ps(sums, as_bf16(left), as_bf16(right)) }
    }
}

/// The same bits by another name.
#[inline(always)]
fn as_bf16(words: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits that mean nothing by themselves.
    unsafe { std::mem::transmute(words) }
}

impl Dot for Int8 {
    type V = Avx512Narrow;
    type Element = u8;
    type Words = __m512i;
    type Sums = __m512i;
    const DEPTH: usize = 4;
    const ROWS: usize = 8;

    #[inline(always)]
    unsafe fn run<R>(work: impl FnOnce() -> R) -> R {
        unsafe { Avx512Narrow::run(work) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn load(from: *const __m512i) -> __m512i {
        unsafe { _mm512_load_si512(from) }
    }

    #[inline(always)]
    unsafe fn broadcast(word: *const u32) -> __m512i {
        unsafe { _mm512_set1_epi32(word.read_unaligned().cast_signed()) }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m512i, left: __m512i, right: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sums, left, right) }
    }
}
