//! Vectors of 8 by AVX2 and FMA.

#![expect(clippy::undocumented_unsafe_blocks, reason = "what each method needs is what its trait says")]
#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "intrinsics have names of their own"))]

use std::arch::x86_64::*;

use half::bf16;

use super::simd::Simd;

/// AVX2 with FMA: any x86 processor since about 2013.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2;

/// All bits set in lanes below `count`.
#[inline(always)]
unsafe fn mask(count: usize) -> __m256i {
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes)
    }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    type F = __m256;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run<R>(work: impl FnOnce() -> R) -> R {
        work()
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m256) {
        unsafe { _mm256_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> __m256 {
        unsafe { _mm256_maskload_ps(from, mask(count)) }
    }

    #[inline(always)]
    unsafe fn store_first(to: *mut f32, count: usize, x: __m256) {
        unsafe { _mm256_maskstore_ps(to, mask(count), x) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> __m256 {
        unsafe {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, x: __m256) {
        unsafe {
            let bits = _mm256_castps_si256(x);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
            let rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0_0000), nan);
            let halves = _mm256_srli_epi32::<16>(rounded);
            let (low, high) = (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            _mm_storeu_si128(to.cast(), _mm_packus_epi32(low, high));
        }
    }

    /// By a copy: AVX2 writes no fewer than four bytes.
    #[inline(always)]
    unsafe fn store_first_bf16(to: *mut bf16, count: usize, x: __m256) {
        let mut all = [bf16::ZERO; 8];
        unsafe {
            Self::store_bf16(all.as_mut_ptr(), x);
            to.copy_from_nonoverlapping(all.as_ptr(), count);
        }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn round(x: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    /// In two halves, since one exponent's worth does not reach from the largest number to the smallest.
    #[inline(always)]
    unsafe fn scale(x: __m256, n: __m256) -> __m256 {
        unsafe {
            let n = _mm256_cvtps_epi32(_mm256_max_ps(n, _mm256_set1_ps(-250.0)));
            let half = _mm256_srai_epi32::<1>(n);
            let power = |n| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))));
            _mm256_mul_ps(_mm256_mul_ps(x, power(half)), power(_mm256_sub_epi32(n, half)))
        }
    }

    #[inline(always)]
    unsafe fn abs(x: __m256) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), x) }
    }

    #[inline(always)]
    unsafe fn index(x: __m256, shift: u32) -> __m256 {
        unsafe {
            let shift = _mm256_set1_epi32(shift.cast_signed());
            _mm256_castsi256_ps(_mm256_srlv_epi32(_mm256_castps_si256(x), shift))
        }
    }

    /// From both halves of the table, then by the fourth bit of the index, moved to where the sign is.
    #[inline(always)]
    unsafe fn pick(table: &[f32; 16], index: __m256) -> __m256 {
        unsafe {
            let index = _mm256_castps_si256(index);
            let half = |from: usize| _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr().add(from)), index);
            _mm256_blendv_ps(half(0), half(8), _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index)))
        }
    }

    #[inline(always)]
    unsafe fn first(count: usize, x: __m256, other: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(other, x, _mm256_castsi256_ps(mask(count))) }
    }

    #[inline(always)]
    unsafe fn sum(x: __m256) -> f32 {
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }

    #[inline(always)]
    unsafe fn largest(x: __m256) -> f32 {
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
    }
}
