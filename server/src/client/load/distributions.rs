//! Numbers drawn from the distributions that gaps between calls have, all with a mean of one.

use std::f64::consts::TAU;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// Of an exponential distribution.
pub(super) fn exponential(random: &mut StdRng) -> f64 {
    -above_zero(random).ln()
}

/// In (0, 1], so that its logarithm is finite.
fn above_zero(random: &mut StdRng) -> f64 {
    1.0 - random.random::<f64>()
}

/// Of the normal distribution around 0 with a deviation of 1, by Box and Muller.
fn normal(random: &mut StdRng) -> f64 {
    let radius = (-2.0 * above_zero(random).ln()).sqrt();
    radius * (TAU * random.random::<f64>()).cos()
}

/// A Gamma distribution.
///
/// Exact, by Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26 (2000): rejection from
/// the cube of a normal, and for shapes below 1, where that does not hold, one of shape + 1 times a power of a uniform.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gamma {
    shape: f64,
    /// The method's own constant: a third less than the shape that is drawn from.
    d: f64,
}

impl Gamma {
    /// The gaps of this shape are equal to a millionth, which no clock tells from all equal; rounding bears no more.
    const SHAPE_MAX: f64 = 1e12;

    /// With this coefficient of variation, deviation over mean, which must be positive.
    pub(super) fn with_cv(cv: f64) -> Self {
        let shape = cv.powi(-2).min(Self::SHAPE_MAX);
        let drawn = if shape < 1.0 { shape + 1.0 } else { shape };
        Self { shape, d: drawn - 1.0 / 3.0 }
    }

    pub(super) fn draw(&self, random: &mut StdRng) -> f64 {
        let drawn = self.of_cube(random);
        let boost = if self.shape < 1.0 { above_zero(random).powf(1.0 / self.shape) } else { 1.0 };
        drawn * boost / self.shape
    }

    /// Of a shape of at least 1 and a scale of 1. Accepts at least 95 % of the attempts.
    fn of_cube(&self, random: &mut StdRng) -> f64 {
        let c = 1.0 / (9.0 * self.d).sqrt();
        loop {
            let x = normal(random);
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && above_zero(random).ln() < 0.5 * x * x + self.d * (1.0 - v + v.ln()) {
                return self.d * v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::Gamma;
    use crate::client::load::schedule::mean_and_cv;

    const DRAWS: usize = 200_000;

    fn draws(cv: f64) -> Vec<f64> {
        let (gamma, mut random) = (Gamma::with_cv(cv), StdRng::seed_from_u64(11));
        (0..DRAWS).map(|_| gamma.draw(&mut random)).collect()
    }

    /// The share of draws below `x`.
    fn below(draws: &[f64], x: f64) -> f64 {
        draws.iter().filter(|draw| **draw < x).count() as f64 / DRAWS as f64
    }

    #[test]
    fn has_a_mean_of_one_and_the_variation_that_was_asked_for() {
        for cv in [0.1, 0.5, 1.0, 2.0, 4.0] {
            let (mean, found) = mean_and_cv(&draws(cv));
            // Five standard errors of the mean; for cv 4 one of the variation is 1.1 %.
            assert!((mean - 1.0).abs() < 5.0 * cv / (DRAWS as f64).sqrt(), "{cv}: mean {mean}");
            assert!((found / cv - 1.0).abs() < 0.04, "{cv}: {found}");
        }
    }

    #[test]
    fn has_the_shape_of_the_distributions_it_contains() {
        let exponential = draws(1.0);
        let halves = draws(2f64.sqrt());
        let twos = draws(0.5f64.sqrt());
        for x in [0.01f64, 0.1, 0.5, 1.0, 2.0, 4.0] {
            let found = below(&exponential, x);
            assert!((found - (1.0 - (-x).exp())).abs() < 0.005, "shape 1 below {x}: {found}");
            let found = below(&twos, x);
            assert!((found - (1.0 - (1.0 + 2.0 * x) * (-2.0 * x).exp())).abs() < 0.005, "shape 2 below {x}: {found}");
        }
        // A shape of a half is chi-squared with one degree of freedom: the square of a normal.
        for (x, expected) in [(0.0158, 0.1), (0.4549, 0.5), (1.0, 0.6827), (3.8415, 0.95)] {
            let found = below(&halves, x);
            assert!((found - expected).abs() < 0.005, "shape 1/2 below {x}: {found}");
        }
    }

    #[test]
    fn stays_finite_at_the_ends() {
        let mut random = StdRng::seed_from_u64(3);
        for cv in [f64::MIN_POSITIVE, 1e-9, 100.0] {
            let gamma = Gamma::with_cv(cv);
            assert!((0..1000).map(|_| gamma.draw(&mut random)).all(|gap| gap.is_finite() && gap >= 0.0), "{cv}");
        }
        let even = Gamma::with_cv(1e-9).draw(&mut random);
        assert!((even - 1.0).abs() < 1e-5, "{even}");
    }
}
