//! Keys and values in the order in which tiles read them. Both are right operands of products: the keys' columns are keys
//! and their words lie along the head, the values' columns lie along the head and their words are keys.

#![expect(clippy::undocumented_unsafe_blocks, reason = "what each method needs is what its trait says")]

use std::arch::x86_64::{
    __m256, __m512, __m512bh, __m512i, __mmask16, __mmask32, _mm256_maskz_loadu_epi16, _mm256_permute2f128_ps,
    _mm256_shuffle_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_ps, _mm512_or_si512,
    _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};
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
pub(crate) trait Attends: Dot<Words: Plain, Element: Number + Plain, V: Simd<F = Self::Sums>> + Sized {
    /// Consecutive elements as words, a vector full; those from `count` on are 0 and their memory is not touched.
    unsafe fn words(from: *const Self::Element, count: usize) -> Self::Words;
    /// Writes the columns of a square of words, of which `row` gives the rows.
    unsafe fn transpose(row: impl Fn(usize) -> Self::Words, to: Columns<Self>);
    /// Words that each hold the elements of one column, a vector of columns: of `rows` rows, at most a word's, and the
    /// first `count` columns; the rest is 0 and its memory is not touched.
    unsafe fn columns(from: Rows<Self::Element>, rows: usize, count: usize) -> Self::Words;
    /// Writes two vectors of numbers as elements.
    unsafe fn store_pair(to: *mut Self::Element, first: Self::Sums, second: Self::Sums);
}

/// Where a square's columns go: so many of them, some vectors apart.
pub(crate) struct Columns<D: Attends> {
    first: *mut D::Words,
    stride: usize,
    count: usize,
}

impl<D: Attends> Columns<D> {
    #[inline(always)]
    unsafe fn write(&self, column: usize, words: D::Words) {
        if column < self.count {
            unsafe { self.first.add(column * self.stride).write(words) };
        }
    }
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
                let (row, column) = (vector * lanes, word * D::DEPTH);
                let to = Columns::<D> { first: to.add(start + word * wide), stride: wide, count: steps - word };
                // Apart, since without a choice for each key it takes half as long.
                if row + lanes <= keys {
                    D::transpose(
                        #[inline(always)]
                        |lane| D::words(from.at(row + lane, column), head - column),
                        to,
                    );
                } else {
                    D::transpose(
                        #[inline(always)]
                        |lane| match row + lane {
                            key if key < keys => D::words(from.at(key, column), head - column),
                            _ => D::words(from.at(row, column), 0),
                        },
                        to,
                    );
                }
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
    unsafe fn transpose(row: impl Fn(usize) -> __m512i, to: Columns<Self>) {
        unsafe {
            transpose_16(
                row,
                #[inline(always)]
                |lane, words| to.write(lane, words),
            );
        }
    }

    /// The first row's elements in the low halves of the words, the second's in the high ones.
    #[inline(always)]
    unsafe fn columns(from: Rows<bf16>, rows: usize, count: usize) -> __m512i {
        unsafe {
            let mask = lanes_below(count);
            let first = halves(from.at(0, 0), mask);
            if rows < 2 { first } else { _mm512_or_si512(first, _mm512_slli_epi32::<16>(halves(from.at(1, 0), mask))) }
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
    unsafe fn transpose(row: impl Fn(usize) -> __m512, to: Columns<Self>) {
        unsafe {
            transpose_16(
                #[inline(always)]
                |lane| _mm512_castps_si512(row(lane)),
                #[inline(always)]
                |lane, words| to.write(lane, _mm512_castsi512_ps(words)),
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
    unsafe fn transpose(row: impl Fn(usize) -> __m256, to: Columns<Self>) {
        unsafe {
            let upper = four_by_8(row(0), row(1), row(2), row(3));
            let lower = four_by_8(row(4), row(5), row(6), row(7));
            for lane in 0..4 {
                to.write(lane, _mm256_permute2f128_ps::<0x20>(upper[lane], lower[lane]));
                to.write(lane + 4, _mm256_permute2f128_ps::<0x31>(upper[lane], lower[lane]));
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

/// 16 elements, those of a mask, each in the low half of a word.
#[inline(always)]
unsafe fn halves(from: *const bf16, mask: __mmask16) -> __m512i {
    unsafe { _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast())) }
}

/// Columns of four rows: half h of vector c holds column 4h + c.
#[inline(always)]
unsafe fn four_by_8(a: __m256, b: __m256, c: __m256, d: __m256) -> [__m256; 4] {
    unsafe {
        let (low_ab, low_cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
        let (high_ab, high_cd) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0x44>(low_ab, low_cd),
            _mm256_shuffle_ps::<0xee>(low_ab, low_cd),
            _mm256_shuffle_ps::<0x44>(high_ab, high_cd),
            _mm256_shuffle_ps::<0xee>(high_ab, high_cd),
        ]
    }
}

/// Columns of four rows: quarter q of vector c holds column 4q + c.
#[inline(always)]
unsafe fn four_by_16(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    unsafe {
        let (low_ab, low_cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (high_ab, high_cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(low_ab, low_cd),
            _mm512_unpackhi_epi64(low_ab, low_cd),
            _mm512_unpacklo_epi64(high_ab, high_cd),
            _mm512_unpackhi_epi64(high_ab, high_cd),
        ]
    }
}

/// By fours of rows, then by quarters of vectors.
#[inline(always)]
unsafe fn transpose_16(row: impl Fn(usize) -> __m512i, mut column: impl FnMut(usize, __m512i)) {
    unsafe {
        let a = four_by_16(row(0), row(1), row(2), row(3));
        let b = four_by_16(row(4), row(5), row(6), row(7));
        let c = four_by_16(row(8), row(9), row(10), row(11));
        let d = four_by_16(row(12), row(13), row(14), row(15));
        for lane in 0..4 {
            let even_ab = _mm512_shuffle_i32x4::<0x88>(a[lane], b[lane]);
            let even_cd = _mm512_shuffle_i32x4::<0x88>(c[lane], d[lane]);
            column(lane, _mm512_shuffle_i32x4::<0x88>(even_ab, even_cd));
            column(lane + 8, _mm512_shuffle_i32x4::<0xdd>(even_ab, even_cd));
            let odd_ab = _mm512_shuffle_i32x4::<0xdd>(a[lane], b[lane]);
            let odd_cd = _mm512_shuffle_i32x4::<0xdd>(c[lane], d[lane]);
            column(lane + 4, _mm512_shuffle_i32x4::<0x88>(odd_ab, odd_cd));
            column(lane + 12, _mm512_shuffle_i32x4::<0xdd>(odd_ab, odd_cd));
        }
    }
}
