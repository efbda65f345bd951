//! Functions of one number, without branches or calls, so that loops over them become vector code; and sums that do.
//!
//! Fused multiply-adds are spelt out: the loops run where the processor has them (see `pulp::Arch::dispatch`).

use std::f32::consts::{LOG2_E, PI};

/// Numbers taken in side by side by sums and maxima. The order is the same on every processor.
const LANES: usize = 16;

/// The sum of `of` over a row.
#[inline(always)]
pub(super) fn sum(row: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    reduce(row, 0.0, |sum, x| sum + of(x), |left, right| left + right)
}

/// The largest number of a row.
#[inline(always)]
pub(super) fn max(row: &[f32]) -> f32 {
    reduce(row, f32::NEG_INFINITY, f32::max, f32::max)
}

#[inline(always)]
fn reduce(row: &[f32], start: f32, with: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let (blocks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [start; LANES];
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane = with(*lane, *x);
        }
    }
    let mut total = start;
    for x in rest {
        total = with(total, *x);
    }
    for lane in lanes {
        total = join(total, lane);
    }
    total
}

/// e^x. Relative error below 2e-7; 0 below -87.3, and never infinite: above 88.3 it stays at e^88.3.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with |r| <= ln 2 / 2. Adding 1.5·2^23 rounds to the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.336_54, 88.376_26);
    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts (Cody and Waite), so that n ln 2 is exact enough.
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    // Cephes expf: e^r = 1 + r + r² p(r).
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 5e-1);
    let mantissa = p.mul_add(r * r, r) + 1.0;
    // 2^n: the whole number is in the low bits of `shifted`; its sign wraps away in the shift.
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    mantissa * scale
}

/// The error function. Absolute error below 4e-7.
///
/// A rational approximation, odd over even, as in Eigen's and XLA's single-precision erf.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let p = -2.726_142_3e-10f32;
    let p = p.mul_add(square, 2.770_681_4e-8);
    let p = p.mul_add(square, -2.101_024e-6);
    let p = p.mul_add(square, -5.692_506_5e-5);
    let p = p.mul_add(square, -7.349_906_4e-4);
    let p = p.mul_add(square, -2.954_6e-3);
    let p = p.mul_add(square, -1.609_603_3e-2);
    let q = -1.456_607_2e-5f32;
    let q = q.mul_add(square, -2.133_740_6e-4);
    let q = q.mul_add(square, -1.682_827e-3);
    let q = q.mul_add(square, -7.373_329e-3);
    let q = q.mul_add(square, -1.426_473_9e-2);
    x * p / q
}

/// x Φ(x), with Φ the normal distribution function: the exact GELU.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    let half = 0.5 * x;
    half.mul_add(erf(x * std::f32::consts::FRAC_1_SQRT_2), half)
}

/// The GELU's approximation by a hyperbolic tangent, for models trained with it.
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    // 0.5 (1 + tanh u) = 1 / (1 + e^-2u), u = sqrt(2/π) (x + 0.044715 x³).
    let slope = (2.0 / PI).sqrt();
    let u = slope * x * (0.044_715 * x).mul_add(x, 1.0);
    x / (1.0 + exp(-2.0 * u))
}

/// x / (1 + e^-x)
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// The hyperbolic tangent, with an absolute error below 2e-7.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::activate::reference;

    fn samples(from: f32, to: f32) -> impl Iterator<Item = f32> {
        (0..=20_000).map(move |step| from + (to - from) * step as f32 / 20_000.0)
    }

    #[test]
    fn exp_is_within_two_ulp_where_it_is_normal() {
        for x in samples(-87.0, 88.0) {
            let (found, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / exact - 1.0).abs() < 2.5e-7, "exp({x}) is {found}, not {exact}");
        }
    }

    #[test]
    fn exp_is_finite_and_not_negative_everywhere() {
        for x in [f32::MIN, -1e4, -88.0, -87.4, 89.0, 1e4, f32::MAX] {
            assert!(exp(x).is_finite() && exp(x) >= 0.0, "exp({x}) is {}", exp(x));
        }
        assert!(exp(-1e30) < 1e-37);
    }

    #[test]
    fn erf_is_within_four_in_ten_million() {
        for x in samples(-6.0, 6.0) {
            let (found, exact) = (f64::from(erf(x)), reference::erf(f64::from(x)));
            assert!((found - exact).abs() < 4e-7, "erf({x}) is {found}, not {exact}");
        }
    }
}
