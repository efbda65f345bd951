//! Numbers as [bytes](super::bytes), by AVX-512: weights once, activations as they come.

use std::arch::x86_64::{
    __m512, _mm_storeu_si128, _mm512_cvtps_epi32, _mm512_cvtusepi32_epi8, _mm512_max_epi32, _mm512_setzero_si512,
};
use std::ops::Range;

use super::bytes::{RANGE_MIN, VALUE_MAX, quantise_column};
use crate::cpu::avx512::Avx512Narrow;
use crate::cpu::memory::{Aligned, Rows};
use crate::cpu::simd::{Number, Simd};

/// What the columns of a product need.
#[derive(Debug)]
pub(crate) struct Columns {
    /// c
    pub(super) scales: Aligned<f32>,
    /// c · Σ v
    pub(super) sums: Aligned<f32>,
}

impl Columns {
    pub(super) fn new(outputs: usize) -> Self {
        Self { scales: Aligned::zeroed(outputs), sums: Aligned::zeroed(outputs) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.scales.bytes() + self.sums.bytes()
    }

    /// Quantises the weights of one column; `to` takes a byte at a place among them.
    pub(super) fn quantise(&mut self, column: usize, weights: &[f32], mut to: impl FnMut(usize, u8)) {
        let [scale, sum] = quantise_column(weights, |place, byte| to(place, byte.cast_unsigned()));
        (self.scales[column], self.sums[column]) = (scale, sum);
    }
}

/// Quantises rows `rows` of `from`, `width` numbers each and multiplied with `factors` if there are any, to bytes in `to`
/// and their scale and minimum in column 0 of `ranges`.
///
/// # Safety
/// The processor has what [`Avx512Narrow`] is. Rows of `from` and `to` reach to the next multiple of 16 columns; nobody
/// else uses those of `to` and `ranges` meanwhile.
pub(crate) unsafe fn quantise<N: Number>(
    rows: Range<usize>,
    width: usize,
    from: Rows<N>,
    factors: Option<&[f32]>,
    to: Rows<u8>,
    ranges: Rows<[f32; 2]>,
) {
    assert!(factors.is_none_or(|factors| factors.len() >= width.next_multiple_of(Avx512Narrow::LANES)));
    // SAFETY: the processor has the instructions, rows are where the caller says, factors were checked.
    unsafe {
        Avx512Narrow::run(
            #[inline(always)]
            || {
                for row in rows {
                    let range = match factors {
                        Some(factors) => quantise_row(
                            width,
                            from.at(row, 0),
                            |at| Avx512Narrow::load(factors[at..].as_ptr()),
                            to.at(row, 0),
                        ),
                        None => quantise_row(width, from.at(row, 0), |_| Avx512Narrow::splat(1.0), to.at(row, 0)),
                    };
                    ranges.at(row, 0).write(range);
                }
            },
        );
    }
}

#[inline(always)]
unsafe fn quantise_row<N: Number>(
    width: usize,
    from: *const N,
    factor: impl Fn(usize) -> __m512,
    to: *mut u8,
) -> [f32; 2] {
    type V = Avx512Narrow;
    // SAFETY: as the caller promises.
    unsafe {
        let at = |column: usize| V::mul(N::load::<V>(from.add(column)), factor(column));
        let whole = width / V::LANES * V::LANES;
        let (mut low, mut high) = (V::splat(f32::INFINITY), V::splat(f32::NEG_INFINITY));
        // Minimum and maximum pass over what is no number; times zero it stays none.
        let mut nothing = V::splat(0.0);
        for column in (0..whole).step_by(V::LANES) {
            let x = at(column);
            (low, high) = (V::min(x, low), V::max(x, high));
            nothing = V::fma(x, V::splat(0.0), nothing);
        }
        if whole < width {
            let (left, x) = (width - whole, at(whole));
            (low, high) = (V::first(left, V::min(x, low), low), V::first(left, V::max(x, high), high));
            nothing = V::first(left, V::fma(x, V::splat(0.0), nothing), nothing);
        }
        let (low, high) = (-V::largest(V::sub(V::splat(0.0), low)), V::largest(high));
        let scale = (high - low).max(RANGE_MIN) / VALUE_MAX;
        let (inverse, offset) = (V::splat(1.0 / scale), V::splat(-low / scale));
        for column in (0..width).step_by(V::LANES) {
            let quantised = _mm512_cvtps_epi32(V::fma(at(column), inverse, offset));
            let bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(quantised, _mm512_setzero_si512()));
            _mm_storeu_si128(to.add(column).cast(), bytes);
        }
        [scale + V::sum(nothing), low]
    }
}
