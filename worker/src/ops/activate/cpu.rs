//! Activations of vectors.

mod narrow;
#[cfg(test)]
mod tests;

use std::f32::consts::{FRAC_1_SQRT_2, LN_2, LOG2_E, PI};

use crate::cpu::simd::Simd;
use crate::plan::Activation;

/// The activation of each lane. The caller knows which before its inner loop: for a constant all but one branch goes.
///
/// Absolute errors are below 1e-6 · max(1, |x|); with `NARROW`, which is for results that are rounded to bfloat16 anyway
/// and takes a fraction of the multiplications, below 1e-4 · max(1, |x|), and below |x| / 1000 for |x| < 1. What is not a
/// number stays none.
///
/// # Safety
/// Within [`Simd::run`].
#[inline(always)]
pub(crate) unsafe fn apply<V: Simd, const NARROW: bool>(activation: Activation, x: V::F) -> V::F {
    // SAFETY: as the caller promises.
    unsafe {
        match activation {
            Activation::Identity => x,
            Activation::Relu => V::max(V::splat(0.0), x),
            // Poolers alone have it: a row for each sequence.
            Activation::Tanh => tanh::<V>(x),
            Activation::Gelu if NARROW => narrow::gelu::<V>(x),
            Activation::GeluTanh if NARROW => narrow::gelu_tanh::<V>(x),
            Activation::Silu if NARROW => narrow::silu::<V>(x),
            Activation::Gelu => gelu::<V>(x),
            Activation::GeluTanh => gelu_tanh::<V>(x),
            Activation::Silu => silu::<V>(x),
        }
    }
}

/// A polynomial, the highest power's coefficient first.
#[inline(always)]
unsafe fn polynomial<V: Simd>(x: V::F, coefficients: &[f32]) -> V::F {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sum = V::splat(coefficients[0]);
        for coefficient in &coefficients[1..] {
            sum = V::fma(sum, x, V::splat(*coefficient));
        }
        sum
    }
}

#[inline(always)]
unsafe fn clamp<V: Simd>(x: V::F, limit: f32) -> V::F {
    // SAFETY: as the caller promises.
    unsafe { V::max(V::splat(-limit), V::min(V::splat(limit), x)) }
}

/// 2^x for any finite x up to 127. Relative error below 2e-7, with `NARROW` below 1e-4; results below 2^-126 may become 0.
///
/// # Safety
/// Within [`Simd::run`].
#[inline(always)]
pub(crate) unsafe fn exp2<V: Simd, const NARROW: bool>(x: V::F) -> V::F {
    // SAFETY: as the caller promises.
    unsafe {
        let whole = V::round(x);
        let rest = V::sub(x, whole);
        // Minimax on [-1/2, 1/2].
        let power = if NARROW {
            polynomial::<V>(rest, &[0.055_838_283, 0.242_639_48, 0.693_136_75, 0.999_924_54])
        } else {
            let coefficients = [1.546_144_5e-4, 1.340_042_8e-3, 9.618_057e-3, 0.055_503_27, 0.240_226_5, LN_2, 1.0];
            polynomial::<V>(rest, &coefficients)
        };
        V::scale(power, whole)
    }
}

/// e^x. Relative error below 2.5e-7. Below -87.3 it stays at e^-87.3, above 88 at e^88.
///
/// # Safety
/// Within [`Simd::run`].
#[inline(always)]
pub(crate) unsafe fn exp<V: Simd>(x: V::F) -> V::F {
    // SAFETY: as the caller promises.
    unsafe {
        let x = V::max(V::splat(-87.3), V::min(V::splat(88.0), x));
        let whole = V::round(V::mul(x, V::splat(LOG2_E)));
        // ln 2 in two parts (Cody and Waite), so that the product is exact enough.
        let rest = V::fma(whole, V::splat(-0.693_359_4), x);
        let rest = V::fma(whole, V::splat(2.121_944_4e-4), rest);
        // Cephes expf: e^r = 1 + r + r² p(r).
        let coefficients = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];
        let power = V::fma(polynomial::<V>(rest, &coefficients), V::mul(rest, rest), rest);
        V::scale(V::add(power, V::splat(1.0)), whole)
    }
}

/// The error function. Absolute error below 4e-7.
///
/// Odd over even polynomial, as in Eigen's and XLA's single-precision erf.
///
/// # Safety
/// Within [`Simd::run`].
#[inline(always)]
pub(crate) unsafe fn erf<V: Simd>(x: V::F) -> V::F {
    const ODD: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_5e-5,
        -7.349_906_4e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const EVEN: [f32; 5] = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    // SAFETY: as the caller promises.
    unsafe {
        let x = clamp::<V>(x, 4.0);
        let square = V::mul(x, x);
        V::div(V::mul(x, polynomial::<V>(square, &ODD)), polynomial::<V>(square, &EVEN))
    }
}

/// The hyperbolic tangent. Relative error below 1e-6.
///
/// Odd over even polynomial, as in Eigen's single-precision tanh.
#[inline(always)]
unsafe fn tanh<V: Simd>(x: V::F) -> V::F {
    const ODD: [f32; 7] =
        [-2.760_768_5e-16, 2.000_188e-13, -8.604_672e-11, 5.122_297e-8, 1.485_722_3e-5, 6.372_619e-4, 4.893_524_6e-3];
    const EVEN: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];
    // SAFETY: as the caller promises.
    unsafe {
        let x = clamp::<V>(x, 7.905_311);
        let square = V::mul(x, x);
        V::div(V::mul(x, polynomial::<V>(square, &ODD)), polynomial::<V>(square, &EVEN))
    }
}

#[inline(always)]
unsafe fn gelu<V: Simd>(x: V::F) -> V::F {
    // SAFETY: as the caller promises.
    unsafe {
        let half = V::mul(x, V::splat(0.5));
        V::fma(half, erf::<V>(V::mul(x, V::splat(FRAC_1_SQRT_2))), half)
    }
}

/// `½ (1 + tanh u) = 1 / (1 + e^-2u)`, `u = √(2/π) (x + 0.044715 x³)`.
#[inline(always)]
unsafe fn gelu_tanh<V: Simd>(x: V::F) -> V::F {
    // SAFETY: as the caller promises.
    unsafe {
        let slope = V::splat(-2.0 * (2.0 / PI).sqrt());
        let square = V::mul(x, x);
        let inner = V::mul(V::mul(slope, x), V::fma(V::splat(0.044_715), square, V::splat(1.0)));
        V::div(x, V::add(V::splat(1.0), exp::<V>(inner)))
    }
}

#[inline(always)]
unsafe fn silu<V: Simd>(x: V::F) -> V::F {
    // SAFETY: as the caller promises.
    unsafe { V::div(x, V::add(V::splat(1.0), exp::<V>(V::sub(V::splat(0.0), x)))) }
}
