//! Random numbers that are the same on every machine: xoshiro256** in whole numbers, and for what measures policies a few
//! distributions in floats that use nothing but what IEEE 754 defines to the bit (see [`math`](crate::math)).

use std::time::Duration;

use crate::math;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream of a seed. Any seed is good: it is spread by SplitMix64 first.
    pub fn new(seed: u64) -> Self {
        let mut mixed = seed;
        let state = [(); 4].map(|()| {
            mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Self { state }
    }

    /// A stream of its own, so that what one part draws does not shift what another draws.
    pub fn fork(&mut self) -> Self {
        Self::new(self.bits())
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The high half of the product; its bias of less than 2⁻³² does not matter here.
        u64::try_from((u128::from(self.bits()) * u128::from(end)) >> 64).unwrap_or(0)
    }

    /// A number from `first` to `last`, both included.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// Like [`between`](Self::between).
    pub fn between_u32(&mut self, first: u32, last: u32) -> u32 {
        u32::try_from(self.between(first.into(), last.into())).unwrap_or(last)
    }

    /// A time from `first` to `last`, to the microsecond.
    pub fn time(&mut self, first: Duration, last: Duration) -> Duration {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2);
        Duration::from_micros(self.between(micros(first), micros(last)))
    }

    /// True this often in a thousand.
    pub fn per_mille(&mut self, often: u64) -> bool {
        self.below(1_000) < often
    }

    /// One of these.
    ///
    /// # Panics
    ///
    /// Panics when there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).unwrap_or(0)]
    }

    /// An exponentially distributed time: the gap between two events that know nothing of each other.
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        const LN_2_Q32: u128 = 2_977_044_472; // ln 2 in units of 2⁻³²
        let ln = (u128::from(minus_log2_q32(self.bits() | 1)) * LN_2_Q32) >> 32;
        let nanos = (mean.as_nanos() * ln) >> 32;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// A number above 0, up to and including 1, so that its logarithm exists.
    pub fn unit(&mut self) -> f64 {
        const STEPS: f64 = (1u64 << 53) as f64;
        ((self.bits() >> 11) + 1) as f64 / STEPS
    }

    /// Exponentially distributed with mean 1. Quicker than [`exponential`](Self::exponential).
    pub fn unit_exponential(&mut self) -> f64 {
        -math::ln(self.unit())
    }

    /// Normally distributed with mean 0 and deviation 1, by Marsaglia's polar method.
    pub fn normal(&mut self) -> f64 {
        loop {
            let (x, y) = (2.0 * self.unit() - 1.0, 2.0 * self.unit() - 1.0);
            let square = x * x + y * y;
            if square < 1.0 && square > 0.0 {
                return x * (-2.0 * math::ln(square) / square).sqrt();
            }
        }
    }

    /// A factor with mean 1 whose logarithm is normal with deviation `sigma`.
    pub fn lognormal(&mut self, sigma: f64) -> f64 {
        if sigma == 0.0 { 1.0 } else { math::exp(sigma * self.normal() - sigma * sigma / 2.0) }
    }

    /// Gamma distributed with mean `shape` and deviation √`shape`, by Marsaglia and Tsang (2000). Below a shape of 1 the
    /// next higher one times U^(1 / shape), as they propose.
    pub fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let scale = math::pow(self.unit(), 1.0 / shape);
            return scale * self.gamma(shape + 1.0);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let root = 1.0 + c * x;
            if root <= 0.0 {
                continue;
            }
            let v = root * root * root;
            if math::ln(self.unit()) < 0.5 * x * x + d - d * v + d * math::ln(v) {
                return d * v;
            }
        }
    }
}

/// -log₂(x / 2⁶⁴) in units of 2⁻³², bit by bit: squaring the mantissa doubles its logarithm.
fn minus_log2_q32(x: u64) -> u64 {
    let zeros = x.leading_zeros();
    let mut mantissa = u128::from(x << zeros); // in [1, 2) as Q63
    let mut log2 = 0u64;
    for _ in 0..32 {
        mantissa = (mantissa * mantissa) >> 63;
        log2 <<= 1;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            log2 |= 1;
        }
    }
    (u64::from(zeros + 1) << 32) - log2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_itself_from_the_same_seed() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            [(); 4].map(|()| rng.bits())
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn takes_logarithms_exactly_enough() {
        assert_eq!(minus_log2_q32(1 << 63), 1 << 32);
        assert_eq!(minus_log2_q32(1 << 60), 4 << 32);
        let three_quarters = minus_log2_q32(3 << 62); // 0.41504
        assert!(three_quarters.abs_diff(1_782_576_000) < 10_000, "{three_quarters}");
    }

    #[test]
    fn spaces_poisson_arrivals_by_their_mean() {
        let mut rng = Rng::new(7);
        let mean = Duration::from_millis(10);
        let total: Duration = (0..20_000).map(|_| rng.exponential(mean)).sum();
        let average = total / 20_000;
        assert!((Duration::from_micros(9_800)..Duration::from_micros(10_200)).contains(&average), "{average:?}");
    }

    #[test]
    fn stays_within_bounds() {
        let mut rng = Rng::new(3);
        let draws: Vec<_> = (0..1_000).map(|_| rng.between(3, 5)).collect();
        assert_eq!((draws.iter().min(), draws.iter().max()), (Some(&3), Some(&5)));
    }

    /// Mean and deviation of so many draws.
    fn moments(draws: u32, mut draw: impl FnMut() -> f64) -> (f64, f64) {
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..draws {
            let x = draw();
            sum += x;
            squares += x * x;
        }
        let mean = sum / f64::from(draws);
        (mean, (squares / f64::from(draws) - mean * mean).sqrt())
    }

    #[test]
    fn draws_normal_numbers() {
        let mut rng = Rng::new(5);
        let (mean, deviation) = moments(100_000, || rng.normal());
        assert!(mean.abs() < 0.01 && (deviation - 1.0).abs() < 0.01, "{mean} {deviation}");
    }

    #[test]
    fn draws_exponential_and_lognormal_numbers_with_mean_one() {
        let mut rng = Rng::new(6);
        let (mean, deviation) = moments(100_000, || rng.unit_exponential());
        assert!((mean - 1.0).abs() < 0.01 && (deviation - 1.0).abs() < 0.02, "{mean} {deviation}");
        let (mean, deviation) = moments(100_000, || rng.lognormal(0.3));
        assert!((mean - 1.0).abs() < 0.01 && (deviation - 0.307).abs() < 0.01, "{mean} {deviation}");
    }

    #[test]
    fn draws_gamma_numbers_of_any_shape() {
        let mut rng = Rng::new(8);
        for shape in [0.25, 1.0, 4.0] {
            let (mean, deviation) = moments(200_000, || rng.gamma(shape));
            assert!((mean / shape - 1.0).abs() < 0.015, "{shape}: {mean}");
            assert!((deviation / shape.sqrt() - 1.0).abs() < 0.02, "{shape}: {deviation}");
        }
    }
}
