//! Logarithm and exponential that are the same on every machine.
//!
//! The platform's `ln` and `exp` differ in the last bit between systems, and one bit is enough to change a run. These use
//! only `+ - * /` and comparisons, which IEEE 754 defines to the bit. `f64::sqrt` is defined to the bit as well, so
//! that one is used as it is.

use std::f64::consts::LN_2;

/// Mantissa bits of a double.
const MANTISSA_BITS: u32 = 52;
/// What is added to a double's exponent.
const EXPONENT_BIAS: i32 = 1023;
/// Below this `exp` is zero; above its negative it is infinite.
const EXP_MIN: f64 = -700.0;

/// Natural logarithm of a normal positive number; relative error below 1e-14 away from 1, absolute near it.
///
/// Zero and anything negative or subnormal give the logarithm of the smallest normal number.
pub fn ln(x: f64) -> f64 {
    let bits = x.max(f64::MIN_POSITIVE).to_bits();
    let mut exponent = i32::try_from(bits >> MANTISSA_BITS).unwrap_or(EXPONENT_BIAS) - EXPONENT_BIAS;
    // In [1, 2).
    let mut mantissa = f64::from_bits((bits & ((1 << MANTISSA_BITS) - 1)) | 1.0f64.to_bits());
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    // ln m = 2 atanh((m - 1) / (m + 1)), whose argument is below 0.172 here.
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let square = z * z;
    let series = (0..10).rev().fold(0.0, |sum, term| sum * square + 1.0 / f64::from(2 * term + 1));
    f64::from(exponent) * LN_2 + 2.0 * z * series
}

/// e to the `x`; relative error below 1e-13 for |x| up to 100.
pub fn exp(x: f64) -> f64 {
    if x < EXP_MIN {
        return 0.0;
    }
    if x > -EXP_MIN {
        return f64::INFINITY;
    }
    // Casting truncates, which is exact; the rest is within ±ln 2 / 2.
    let halves = x / LN_2;
    let power = (if halves < 0.0 { halves - 0.5 } else { halves + 0.5 }) as i32;
    let rest = x - f64::from(power) * LN_2;
    let series = (1..=14).rev().fold(1.0, |sum, term| 1.0 + sum * rest / f64::from(term));
    let two_to_power =
        u64::try_from(power + EXPONENT_BIAS).map_or(0.0, |biased| f64::from_bits(biased << MANTISSA_BITS));
    series * two_to_power
}

/// `base` to a real power, for a positive base.
pub fn pow(base: f64, power: f64) -> f64 {
    exp(power * ln(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative to the larger of the truth and 1.
    fn error(ours: f64, truth: f64) -> f64 {
        (ours - truth).abs() / truth.abs().max(1.0)
    }

    #[test]
    fn takes_logarithms_as_well_as_the_platform() {
        for step in 1..200_000 {
            let x = f64::from(step) * 0.000_37;
            assert!(error(ln(x), x.ln()) < 1e-14, "{x}: {} {}", ln(x), x.ln());
        }
        for x in [1e-300, 1e-20, 1e20, 1e300] {
            assert!(error(ln(x), x.ln()) < 1e-14, "{x}");
        }
        assert_eq!((ln(1.0), ln(0.0)), (0.0, ln(f64::MIN_POSITIVE)));
    }

    #[test]
    fn raises_e_as_well_as_the_platform() {
        for step in -100_000..100_000 {
            let x = f64::from(step) * 0.001;
            let relative = (exp(x) - x.exp()).abs() / x.exp();
            assert!(relative < 1e-13, "{x}: {} {}", exp(x), x.exp());
        }
        assert_eq!((exp(0.0), exp(-1e9), exp(1e9)), (1.0, 0.0, f64::INFINITY));
    }

    #[test]
    fn raises_to_real_powers() {
        assert!((pow(16.0, -0.9) - 0.082_469_244).abs() < 1e-8, "{}", pow(16.0, -0.9));
    }
}
