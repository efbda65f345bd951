//! Keys and values in the order in which tiles read them. Both are right operands of products: the keys' columns are keys
//! and their words lie along the head, the values' columns lie along the head and their words are keys.

#![expect(clippy::undocumented_unsafe_blocks, reason = "what each method needs is what its trait says")]

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::PANEL;
use crate::cpu::avx2::Avx2;
use crate::cpu::avx512::Avx512;
use crate::cpu::dot::{Bf16, Dot, F32, VECTORS};
use crate::cpu::memory::{Plain, Rows};
use crate::cpu::simd::{Number, Simd};

/// Kinds of dot products that attention is made of: their sums are numbers, which become elements again.
///
/// # Safety
/// As for [`Dot`].
pub(crate) trait Attends: Dot<Words: Plain, Element: Number + Plain, V: Simd<F = Self::Sums>> {
    /// Consecutive elements as words, a vector full; those from `count` on are 0 and their memory is not touched.
    unsafe fn words(from: *const Self::Element, count: usize) -> Self::Words;
    /// Hands out the columns of a square of words, of which `row` gives the rows.
    unsafe fn transpose(row: impl Fn(usize) -> Self::Words, column: impl FnMut(usize, Self::Words));
    /// Words that each hold the elements of one column, a vector of columns: of `rows` rows, at most a word's, and the
    /// first `count` columns; the rest is 0 and its memory is not touched.
    unsafe fn columns(from: Rows<Self::Element>, rows: usize, count: usize) -> Self::Words;
    /// Writes two vectors of numbers as elements.
    unsafe fn store_pair(to: *mut Self::Element, first: Self::Sums, second: Self::Sums);
}

/// Packs `keys` keys of `head` elements in panels of [`PANEL`] vectors; keys and elements that fill up vectors and words
/// are 0.
///
/// # Safety
/// Within [`Dot::run`]; `to` takes a vector for each word of the head and each vector of keys.
#[inline(always)]
pub(super) unsafe fn keys<D: Attends>(from: Rows<D::Element>, keys: usize, head: usize, to: *mut D::Words) {
    let (lanes, steps) = (D::V::LANES, head.div_ceil(D::DEPTH));
    let vectors = keys.div_ceil(lanes);
    // SAFETY: rows are read below `keys` and columns below `head`; vectors are written below `steps · vectors`.
    unsafe {
        for vector in 0..vectors {
            let first = vector / PANEL * PANEL;
            let (start, wide) = (first * steps + vector - first, PANEL.min(vectors - first));
            for word in (0..steps).step_by(lanes) {
                let column = word * D::DEPTH;
                D::transpose(
                    #[inline(always)]
                    |lane| {
                        let key = vector * lanes + lane;
                        let (row, count) = if key < keys { (key, head - column) } else { (0, 0) };
                        D::words(from.at(row, column), count)
                    },
                    #[inline(always)]
                    |lane, words| {
                        if word + lane < steps {
                            to.add(start + (word + lane) * wide).write(words);
                        }
                    },
                );
            }
        }
    }
}

/// Panels of the head's vectors: at most [`VECTORS`] each, of nearly the same size.
#[inline(always)]
pub(super) fn panels(vectors: usize) -> impl Iterator<Item = Range<usize>> {
    let count = vectors.div_ceil(VECTORS);
    (0..count).map(move |panel| vectors * panel / count..vectors * (panel + 1) / count)
}

/// Packs `keys` values of `head` elements in [`panels`]; keys and elements that fill up words and vectors are 0.
///
/// # Safety
/// Within [`Dot::run`]; `to` takes a vector for each word of keys and each vector of the head.
#[inline(always)]
pub(super) unsafe fn values<D: Attends>(from: Rows<D::Element>, keys: usize, head: usize, to: *mut D::Words) {
    let lanes = D::V::LANES;
    let steps = keys.div_ceil(D::DEPTH);
    // SAFETY: rows are read below `keys` and columns below `head`; vectors are written below `steps · vectors`.
    unsafe {
        for panel in panels(head.div_ceil(lanes)) {
            let mut to = to.add(panel.start * steps);
            for step in 0..steps {
                let row = step * D::DEPTH;
                for vector in panel.clone() {
                    let column = vector * lanes;
                    let from = Rows::new(from.at(row, column), from.stride);
                    to.write(D::columns(from, keys - row, head - column));
                    to = to.add(1);
                }
            }
        }
    }
}

impl Attends for Bf16 {
    #[inline(always)]
    unsafe fn words(from: *const bf16, count: usize) -> __m512i {
        unsafe { _mm512_maskz_loadu_epi16(((1u64 << count.min(32)) - 1) as __mmask32, from.cast()) }
    }

    #[inline(always)]
    unsafe fn transpose(row: impl Fn(usize) -> __m512i, column: impl FnMut(usize, __m512i)) {
        unsafe { transpose_16(row, column) }
    }

    /// The first row's elements in the low halves of the words, the second's in the high ones.
    #[inline(always)]
    unsafe fn columns(from: Rows<bf16>, rows: usize, count: usize) -> __m512i {
        unsafe {
            let mask = lanes_below(count);
            let row = |row: usize| _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.at(row, 0).cast()));
            let first = row(0);
            if rows < 2 { first } else { _mm512_or_si512(first, _mm512_slli_epi32::<16>(row(1))) }
        }
    }

    #[inline(always)]
    unsafe fn store_pair(to: *mut bf16, first: __m512, second: __m512) {
        unsafe { to.cast::<__m512bh>().write_unaligned(_mm512_cvtne2ps_pbh(second, first)) }
    }
}

impl Attends for F32<Avx512> {
    #[inline(always)]
    unsafe fn words(from: *const f32, count: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(lanes_below(count), from) }
    }

    #[inline(always)]
    unsafe fn transpose(row: impl Fn(usize) -> __m512, mut column: impl FnMut(usize, __m512)) {
        unsafe {
            transpose_16(
                #[inline(always)]
                |lane| _mm512_castps_si512(row(lane)),
                #[inline(always)]
                |lane, words| column(lane, _mm512_castsi512_ps(words)),
            );
        }
    }

    #[inline(always)]
    unsafe fn columns(from: Rows<f32>, _: usize, count: usize) -> __m512 {
        unsafe { Self::words(from.at(0, 0), count) }
    }

    #[inline(always)]
    unsafe fn store_pair(to: *mut f32, first: __m512, second: __m512) {
        unsafe {
            Avx512::store(to, first);
            Avx512::store(to.add(16), second);
        }
    }
}

impl Attends for F32<Avx2> {
    #[inline(always)]
    unsafe fn words(from: *const f32, count: usize) -> __m256 {
        unsafe { Avx2::load_first(from, count.min(8)) }
    }

    #[inline(always)]
    unsafe fn transpose(row: impl Fn(usize) -> __m256, mut column: impl FnMut(usize, __m256)) {
        unsafe {
            // Pairs of rows, then fours, then all eight; `halves` come from the lower and from the upper four rows.
            let pair = |r: usize| (_mm256_unpacklo_ps(row(r), row(r + 1)), _mm256_unpackhi_ps(row(r), row(r + 1)));
            let four = |r: usize| {
                let ((a, b), (c, d)) = (pair(r), pair(r + 2));
                let low = |x, y| _mm256_shuffle_ps::<0x44>(x, y);
                let high = |x, y| _mm256_shuffle_ps::<0xee>(x, y);
                [low(a, c), high(a, c), low(b, d), high(b, d)]
            };
            for (lane, (upper, lower)) in four(0).into_iter().zip(four(4)).enumerate() {
                column(lane, _mm256_permute2f128_ps::<0x20>(upper, lower));
                column(lane + 4, _mm256_permute2f128_ps::<0x31>(upper, lower));
            }
        }
    }

    #[inline(always)]
    unsafe fn columns(from: Rows<f32>, _: usize, count: usize) -> __m256 {
        unsafe { Self::words(from.at(0, 0), count) }
    }

    #[inline(always)]
    unsafe fn store_pair(to: *mut f32, first: __m256, second: __m256) {
        unsafe {
            Avx2::store(to, first);
            Avx2::store(to.add(8), second);
        }
    }
}

/// Lanes below `count`, of 16.
#[inline(always)]
fn lanes_below(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as __mmask16
}

/// By pairs of rows, then fours, then quarters of vectors.
#[inline(always)]
unsafe fn transpose_16(row: impl Fn(usize) -> __m512i, mut column: impl FnMut(usize, __m512i)) {
    unsafe {
        let four = |r: usize| {
            let [a, b, c, d] = [row(r), row(r + 1), row(r + 2), row(r + 3)];
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (high_ab, high_cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(high_ab, high_cd),
                _mm512_unpackhi_epi64(high_ab, high_cd),
            ]
        };
        // Quarter q of vector c holds column 4q + c of four rows.
        let (a, b, c, d) = (four(0), four(4), four(8), four(12));
        for lane in 0..4 {
            let even = |x, y| _mm512_shuffle_i32x4::<0x88>(x, y);
            let odd = |x, y| _mm512_shuffle_i32x4::<0xdd>(x, y);
            let (ab, cd) = (even(a[lane], b[lane]), even(c[lane], d[lane]));
            column(lane, even(ab, cd));
            column(lane + 8, odd(ab, cd));
            let (ab, cd) = (odd(a[lane], b[lane]), odd(c[lane], d[lane]));
            column(lane + 4, even(ab, cd));
            column(lane + 12, odd(ab, cd));
        }
    }
}
