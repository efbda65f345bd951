//! Vectors of 16 by AVX-512.

#![expect(clippy::undocumented_unsafe_blocks, reason = "what each method needs is what its trait says")]
#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "intrinsics have names of their own"))]

use std::arch::x86_64::*;

use half::bf16;

use super::simd::Simd;

/// AVX-512 F, BW, DQ and VL: what every processor with AVX-512 but the first ones has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512;

/// AVX-512 with bfloat16 and VNNI, which convert and multiply narrow numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Narrow;

/// Lanes below `count`.
#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

/// By integer arithmetic, since AVX-512 alone has no conversion. Numbers that are none stay none.
#[inline(always)]
unsafe fn round_by_integers(x: __m512) -> __m256i {
    unsafe {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0_0000));
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded))
    }
}

#[inline(always)]
unsafe fn round_by_instruction(x: __m512) -> __m256i {
    // SAFETY: the two types are 256 bits that mean nothing by themselves.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) }
}

/// The two types differ in what they are compiled for, and in how they round to bfloat16.
macro_rules! vectors_of_16 {
    ($name:ident, $features:literal, $round:ident) => {
        impl Simd for $name {
            const LANES: usize = 16;
            type F = __m512;

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn run<R>(work: impl FnOnce() -> R) -> R {
                work()
            }

            #[inline(always)]
            unsafe fn splat(x: f32) -> __m512 {
                unsafe { _mm512_set1_ps(x) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> __m512 {
                unsafe { _mm512_loadu_ps(from) }
            }

            #[inline(always)]
            unsafe fn store(to: *mut f32, x: __m512) {
                unsafe { _mm512_storeu_ps(to, x) }
            }

            #[inline(always)]
            unsafe fn load_first(from: *const f32, count: usize) -> __m512 {
                unsafe { _mm512_maskz_loadu_ps(mask(count), from) }
            }

            #[inline(always)]
            unsafe fn store_first(to: *mut f32, count: usize, x: __m512) {
                unsafe { _mm512_mask_storeu_ps(to, mask(count), x) }
            }

            #[inline(always)]
            unsafe fn load_bf16(from: *const bf16) -> __m512 {
                unsafe {
                    let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
                }
            }

            #[inline(always)]
            unsafe fn store_bf16(to: *mut bf16, x: __m512) {
                // SAFETY: as the caller promises.
                unsafe { _mm256_storeu_si256(to.cast(), $round(x)) }
            }

            #[inline(always)]
            unsafe fn store_first_bf16(to: *mut bf16, count: usize, x: __m512) {
                unsafe { _mm256_mask_storeu_epi16(to.cast(), mask(count), $round(x)) }
            }

            #[inline(always)]
            unsafe fn add(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_add_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn sub(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_sub_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn mul(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_mul_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn div(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_div_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }

            #[inline(always)]
            unsafe fn min(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_min_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn max(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_max_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn round(x: __m512) -> __m512 {
                unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
            }

            #[inline(always)]
            unsafe fn scale(x: __m512, n: __m512) -> __m512 {
                unsafe { _mm512_scalef_ps(x, n) }
            }

            #[inline(always)]
            unsafe fn abs(x: __m512) -> __m512 {
                unsafe { _mm512_abs_ps(x) }
            }

            #[inline(always)]
            unsafe fn index(x: __m512, shift: u32) -> __m512 {
                unsafe {
                    let shift = _mm512_set1_epi32(shift.cast_signed());
                    _mm512_castsi512_ps(_mm512_srlv_epi32(_mm512_castps_si512(x), shift))
                }
            }

            #[inline(always)]
            unsafe fn pick(table: &[f32; 16], index: __m512) -> __m512 {
                unsafe { _mm512_permutexvar_ps(_mm512_castps_si512(index), _mm512_loadu_ps(table.as_ptr())) }
            }

            #[inline(always)]
            unsafe fn first(count: usize, x: __m512, other: __m512) -> __m512 {
                unsafe { _mm512_mask_mov_ps(other, mask(count), x) }
            }

            #[inline(always)]
            unsafe fn sum(x: __m512) -> f32 {
                unsafe { _mm512_reduce_add_ps(x) }
            }

            #[inline(always)]
            unsafe fn largest(x: __m512) -> f32 {
                unsafe { _mm512_reduce_max_ps(x) }
            }
        }
    };
}

vectors_of_16!(Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", round_by_integers);
vectors_of_16!(
    Avx512Narrow,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma,f16c",
    round_by_instruction
);
