//! When the calls of an open loop are to be sent.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::options::Arrivals;

/// Yields, without end, the moment of each call since the start. The same seed gives the same moments.
#[derive(Debug)]
pub(super) struct Schedule {
    arrivals: Arrivals,
    rate: f64,
    random: StdRng,
    number: u64,
    seconds: f64,
}

impl Schedule {
    /// `rate` calls a second on average; it must be positive.
    pub(super) fn new(arrivals: Arrivals, rate: f64, seed: u64) -> Self {
        Self { arrivals, rate, random: StdRng::seed_from_u64(seed), number: 0, seconds: 0.0 }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let seconds = match self.arrivals {
            // From the number and not from the last moment, so that rounding never adds up.
            Arrivals::Constant => self.number as f64 / self.rate,
            Arrivals::Poisson => {
                // In [0, 1), so the logarithm is that of a number in (0, 1] and the gap is finite.
                let uniform: f64 = self.random.random();
                self.seconds += -(1.0 - uniform).ln() / self.rate;
                self.seconds
            }
        };
        self.number += 1;
        // Past what a duration can hold nobody waits for it.
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Schedule;
    use crate::client::load::Arrivals;

    #[test]
    fn constant_calls_have_equal_gaps_that_do_not_drift() {
        let moments: Vec<_> = Schedule::new(Arrivals::Constant, 3.0, 0).take(3_000_001).collect();
        assert_eq!(moments[0], Duration::ZERO);
        assert_eq!(moments[3], Duration::from_secs(1));
        assert_eq!(moments[3_000_000], Duration::from_secs(1_000_000));
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let moments: Vec<f64> =
            Schedule::new(Arrivals::Poisson, 200.0, 7).take(100_000).map(|moment| moment.as_secs_f64()).collect();
        let gaps: Vec<f64> = std::iter::once(moments[0]).chain(moments.windows(2).map(|w| w[1] - w[0])).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // One standard error of the mean is 0.3 %, of the standard deviation about 0.5 %.
        assert!((mean * 200.0 - 1.0).abs() < 0.015, "{mean}");
        assert!((variance.sqrt() * 200.0 - 1.0).abs() < 0.025, "{variance}");
        // P(gap > 1/rate) = 1/e.
        let long = gaps.iter().filter(|gap| **gap > 1.0 / 200.0).count() as f64 / gaps.len() as f64;
        assert!((long - (-1.0f64).exp()).abs() < 0.008, "{long}");
    }

    #[test]
    fn the_same_seed_gives_the_same_moments() {
        let take = |seed| Schedule::new(Arrivals::Poisson, 10.0, seed).take(50).collect::<Vec<_>>();
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
    }

    #[test]
    fn a_rate_near_zero_does_not_overflow() {
        assert_eq!(Schedule::new(Arrivals::Constant, 1e-300, 0).nth(1), Some(Duration::MAX));
    }
}
