//! When the calls of an open loop are to be sent.

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::distributions::{Gamma, exponential};
use super::modulated::Modulated;
use super::process::Process;
use super::trace::Trace;

/// Yields the moment of each call since the start: without end, or until a trace ends. The same seed gives the same
/// moments.
#[derive(Debug)]
pub(super) struct Schedule {
    gaps: Gaps,
    rate: f64,
    random: StdRng,
    number: u64,
    seconds: f64,
}

/// Where the next moment comes from.
#[derive(Debug)]
enum Gaps {
    Constant,
    Poisson,
    Gamma(Gamma),
    Modulated(Modulated),
    /// The trace's seconds, times this.
    Replay(Trace, f64),
}

impl Schedule {
    /// `rate` calls a second on average; it must be positive.
    pub(super) fn new(process: &Process, rate: f64, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let gaps = match process {
            Process::Constant => Gaps::Constant,
            Process::Poisson => Gaps::Poisson,
            Process::Gamma { cv } => Gaps::Gamma(Gamma::with_cv(*cv)),
            Process::Mmpp(modulation) | Process::CodeLike(modulation) => {
                Gaps::Modulated(Modulated::new(*modulation, rate, &mut random))
            }
            Process::Replay(trace) => Gaps::Replay(trace.clone(), trace.rate() / rate),
        };
        Self { gaps, rate, random, number: 0, seconds: 0.0 }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let Self { rate, random, number, seconds, .. } = self;
        *seconds = match &mut self.gaps {
            // From the number and not from the last moment, so that rounding never adds up.
            Gaps::Constant => *number as f64 / *rate,
            Gaps::Poisson => *seconds + exponential(random) / *rate,
            Gaps::Gamma(gamma) => *seconds + gamma.draw(random) / *rate,
            Gaps::Modulated(process) => *seconds + process.gap(random),
            Gaps::Replay(trace, times) => trace.moment(*number)? * *times,
        };
        *number += 1;
        // Past what a duration can hold nobody waits for it.
        Some(Duration::try_from_secs_f64(*seconds).unwrap_or(Duration::MAX))
    }
}

/// The mean of numbers, and their deviation over it.
#[cfg(test)]
pub(super) fn mean_and_cv(numbers: &[f64]) -> (f64, f64) {
    let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
    let variance = numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / numbers.len() as f64;
    (mean, variance.sqrt() / mean)
}

#[cfg(test)]
mod tests;
