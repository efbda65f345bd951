//! Poisson calls whose rate switches between high and low, as bursts of real traffic do.

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde::Serialize;

use super::distributions::exponential;

/// Two states in turn, each for an exponential time: a Markov-modulated Poisson process. What the low state does follows
/// from the high one and the mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Modulation {
    /// The high state's rate, in times of the mean rate.
    pub high_times: f64,
    /// How much of the time it is high.
    pub high_share: f64,
    /// How long it is high in the mean.
    pub high_dwell_s: f64,
    /// The low state's rate, in times of the mean rate.
    pub low_times: f64,
    /// How long it is low in the mean.
    pub low_dwell_s: f64,
}

impl Modulation {
    /// Short bursts: four times the mean rate for a tenth of the time, half a second each.
    pub const BURSTS: Self = Self::new(4.0, 0.1, 0.5);

    /// A fit of Azure's code completions of November 2023, which come in shifts of load that last seconds: the trace
    /// "AzureLLMInferenceTrace_code" (CC-BY) of Patel et al., "Splitwise", ISCA 2024. The fit has 0.14 times the mean
    /// rate and 14 s for the low state, which is what follows here to two digits.
    pub const CODE: Self = Self::new(4.77, 0.186, 3.2);

    const fn new(high_times: f64, high_share: f64, high_dwell_s: f64) -> Self {
        let low_share = 1.0 - high_share;
        let low_times = (1.0 - high_share * high_times) / low_share;
        Self { high_times, high_share, high_dwell_s, low_times, low_dwell_s: high_dwell_s * low_share / high_share }
    }
}

/// A process under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Modulated {
    modulation: Modulation,
    rate: f64,
    is_high: bool,
    /// Seconds until the state switches.
    left: f64,
}

impl Modulated {
    /// No run waits four months for a call.
    const GAP_MAX: f64 = 1e7;

    /// `rate` calls a second on average. It begins as it would be found at any moment: high with the share of that.
    pub(super) fn new(modulation: Modulation, rate: f64, random: &mut StdRng) -> Self {
        let is_high = random.random_bool(modulation.high_share);
        let mut process = Self { modulation, rate, is_high, left: 0.0 };
        process.left = exponential(random) * process.dwell();
        process
    }

    /// Seconds until the next call; infinite where that is beyond all bounds.
    pub(super) fn gap(&mut self, random: &mut StdRng) -> f64 {
        let mut gap = 0.0;
        while gap < Self::GAP_MAX {
            // An exponential wait has no memory, so one that the switch cuts short may be drawn anew after it.
            let wait = exponential(random) / (self.rate * self.times());
            if wait < self.left {
                self.left -= wait;
                return gap + wait;
            }
            gap += self.left;
            self.is_high = !self.is_high;
            self.left = exponential(random) * self.dwell();
        }
        f64::INFINITY
    }

    fn times(&self) -> f64 {
        if self.is_high { self.modulation.high_times } else { self.modulation.low_times }
    }

    fn dwell(&self) -> f64 {
        if self.is_high { self.modulation.high_dwell_s } else { self.modulation.low_dwell_s }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::{Modulated, Modulation};
    use crate::client::load::schedule::mean_and_cv;

    #[test]
    fn the_low_state_makes_up_for_the_high_one() {
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 0.005, "{found} for {expected}");
        near(Modulation::BURSTS.low_times, 2.0 / 3.0);
        near(Modulation::BURSTS.low_dwell_s, 4.5);
        near(Modulation::CODE.low_times, 0.14);
        near(Modulation::CODE.low_dwell_s, 14.0);
        for Modulation { high_times, high_share, high_dwell_s, low_times, low_dwell_s } in
            [Modulation::BURSTS, Modulation::CODE]
        {
            near(high_share * high_times + (1.0 - high_share) * low_times, 1.0);
            near(high_dwell_s / (high_dwell_s + low_dwell_s), high_share);
        }
    }

    #[test]
    fn gaps_have_the_mean_rate_and_vary_as_a_mixture_of_two_exponentials() {
        const RATE: f64 = 50.0;
        for modulation in [Modulation::BURSTS, Modulation::CODE] {
            let mut random = StdRng::seed_from_u64(5);
            let mut process = Modulated::new(modulation, RATE, &mut random);
            let gaps: Vec<f64> = (0..3_000_000).map(|_| process.gap(&mut random)).collect();
            let (mean, cv) = mean_and_cv(&gaps);
            assert!((mean * RATE - 1.0).abs() < 0.05, "{modulation:?}: {mean}");
            // Where gaps are short against the dwells: so many of the calls are of the high state.
            let Modulation { high_times, high_share, low_times, .. } = modulation;
            let of_high = high_share * high_times;
            let second = 2.0 * (of_high / high_times.powi(2) + (1.0 - of_high) / low_times.powi(2));
            assert!((cv / (second - 1.0).sqrt() - 1.0).abs() < 0.05, "{modulation:?}: {cv}");
        }
    }

    #[test]
    fn time_is_high_for_its_share_and_so_long_at_once() {
        let (modulation, mut random) = (Modulation::BURSTS, StdRng::seed_from_u64(9));
        let mut process = Modulated::new(modulation, 2000.0, &mut random);
        let (mut high, mut all, mut bursts) = (0.0, 0.0, 0);
        for _ in 0..2_000_000 {
            let before = process.is_high;
            let gap = process.gap(&mut random);
            all += gap;
            high += if process.is_high { gap } else { 0.0 };
            bursts += u32::from(process.is_high && !before);
        }
        assert!((high / all / modulation.high_share - 1.0).abs() < 0.25, "{high} of {all}");
        assert!((high / f64::from(bursts) / modulation.high_dwell_s - 1.0).abs() < 0.25, "{high} in {bursts}");
    }

    #[test]
    fn a_rate_near_zero_ends() {
        let mut random = StdRng::seed_from_u64(0);
        assert_eq!(Modulated::new(Modulation::CODE, 1e-300, &mut random).gap(&mut random), f64::INFINITY);
    }
}
