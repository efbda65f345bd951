//! When requests arrive.
//!
//! Two kinds of irregularity: gaps that are drawn anew each time (constant, Poisson, Gamma), and a Poisson process whose
//! rate changes. A changing rate is a step function of time, so its points are exact: a unit of exponential time is used
//! up at the rate of each step.

use std::time::Duration;

use crate::rng::Rng;

const NANOS: f64 = 1e9;
/// Hourly rates of a day over their mean: a trough at night, two peaks in working hours.
const DAY: [f64; 24] = [
    0.42, 0.34, 0.30, 0.28, 0.30, 0.38, 0.55, 0.85, 1.25, 1.55, 1.70, 1.65, 1.45, 1.50, 1.65, 1.70, 1.60, 1.40, 1.15,
    1.00, 0.95, 0.85, 0.68, 0.50,
];
/// What a flash multiplies the rate by, the hour of the day it starts at, and how long it lasts in hours.
const FLASH: (f64, f64, f64) = (5.0, 20.0, 1.0);

/// A kind of arrival process. Rates are relative to a mean of 1, which the stream scales.
#[derive(Clone, Copy, Debug)]
pub enum Process {
    /// Evenly spaced.
    Constant,
    /// Gaps of which none knows of another.
    Poisson,
    /// Gaps from a Gamma distribution with this coefficient of variation: above 1, requests come in bunches.
    Gamma {
        /// Deviation over mean.
        cv: f64,
    },
    /// Poisson with a rate that jumps between two values.
    TwoState(TwoState),
    /// Poisson with a rate of 1 plus two telegraph signals, quick and slow, fitted to the conversation trace: at its 5.4
    /// requests a second the index of dispersion is 1.4 over 1 s, 3.9 over 10 s and 16 over 60 s. Scaled to a higher rate
    /// the signals stay and the dispersion over the same time grows with the rate, as when everybody is busy at once.
    Conversation,
    /// Poisson along a day squeezed into `length`, with a flash of five times the rate for an hour in the evening.
    Diurnal {
        /// Of the day.
        length: Duration,
    },
}

/// The numbers of a two-state rate.
#[derive(Clone, Copy, Debug)]
pub struct TwoState {
    /// Rate while on.
    pub on: f64,
    /// Rate while off.
    pub off: f64,
    /// Mean time on.
    pub on_time: Duration,
    /// Mean time off.
    pub off_time: Duration,
}

/// Deviation of each telegraph signal of [`Process::Conversation`] and the mean time between its jumps, in seconds.
const TELEGRAPHS: [(f64, f64); 2] = [(0.228, 0.6), (0.231, 240.0)];

impl Process {
    /// Four times the mean rate for a tenth of the time, half a second at a time.
    pub fn mmpp() -> Self {
        Self::TwoState(TwoState {
            on: 4.0,
            off: 2.0 / 3.0,
            on_time: Duration::from_millis(500),
            off_time: Duration::from_millis(4_500),
        })
    }

    /// Fitted to the code completion trace: on for 18.6 % of the time.
    pub fn code_like() -> Self {
        Self::TwoState(TwoState {
            on: 4.77,
            off: 0.14,
            on_time: Duration::from_millis(3_200),
            off_time: Duration::from_secs(14),
        })
    }
}

/// The arrival times of one process: nanoseconds from the start, ascending, without end.
#[derive(Debug)]
pub struct Gaps {
    rng: Rng,
    /// For the steps alone: at every rate the bursts come at the same times.
    step_rng: Rng,
    process: Process,
    /// Nanoseconds between two arrivals on average.
    mean_ns: f64,
    /// Of the last arrival.
    now_ns: f64,
    steps: Steps,
}

/// The present step of a changing rate.
#[derive(Debug)]
struct Steps {
    rate: f64,
    until_ns: f64,
    /// Two-state: whether on. Conversation: the sign of each signal and when it jumps.
    on: bool,
    signals: [(f64, f64); TELEGRAPHS.len()],
}

impl Gaps {
    /// The arrivals of a process at so many a second.
    ///
    /// # Panics
    ///
    /// Panics when the rate is not above 0.
    pub fn new(process: Process, rate: f64, mut rng: Rng) -> Self {
        assert!(rate > 0.0, "a rate of {rate} a second has no arrivals");
        let steps = Steps { rate: 1.0, until_ns: 0.0, on: false, signals: [(0.0, 0.0); TELEGRAPHS.len()] };
        let step_rng = rng.fork();
        let mut gaps = Self { process, mean_ns: NANOS / rate, now_ns: 0.0, steps, step_rng, rng };
        gaps.begin();
        gaps
    }

    /// Starts in the long-run mix of states, so that no run begins the same way.
    fn begin(&mut self) {
        if let Process::TwoState(two) = self.process {
            let (on, off) = (two.on_time.as_secs_f64(), two.off_time.as_secs_f64());
            // The first step turns it around.
            self.steps.on = self.step_rng.unit() > on / (on + off);
        }
        for (signal, (_, jump_mean)) in self.steps.signals.iter_mut().zip(TELEGRAPHS) {
            let sign = if self.step_rng.per_mille(500) { 1.0 } else { -1.0 };
            *signal = (sign, self.step_rng.unit_exponential() * jump_mean * NANOS);
        }
        self.step();
    }

    /// Draws the rate from `until_ns` on, and until when it holds.
    fn step(&mut self) {
        let steps = &mut self.steps;
        match self.process {
            Process::Constant | Process::Poisson | Process::Gamma { .. } => steps.until_ns = f64::INFINITY,
            Process::TwoState(two) => {
                steps.on = !steps.on;
                let (rate, time) = if steps.on { (two.on, two.on_time) } else { (two.off, two.off_time) };
                steps.rate = rate;
                steps.until_ns += self.step_rng.unit_exponential() * time.as_secs_f64() * NANOS;
            }
            Process::Conversation => {
                for ((sign, jump), (_, jump_mean)) in steps.signals.iter_mut().zip(TELEGRAPHS) {
                    if *jump <= steps.until_ns {
                        *sign = -*sign;
                        *jump += self.step_rng.unit_exponential() * jump_mean * NANOS;
                    }
                }
                let swings = steps.signals.iter().zip(TELEGRAPHS).map(|((sign, _), (swing, _))| sign * swing);
                steps.rate = swings.fold(1.0, |rate, swing| rate + swing);
                steps.until_ns = steps.signals.iter().fold(f64::INFINITY, |first, (_, jump)| first.min(*jump));
            }
            Process::Diurnal { length } => {
                // Quarters of an hour, so that the flash has edges of its own.
                let quarter_ns = length.as_secs_f64() * NANOS / 96.0;
                let quarter = (steps.until_ns / quarter_ns + 0.5) as usize % 96;
                let (factor, from, hours) = FLASH;
                let hour = quarter as f64 / 4.0;
                let flashes = hour >= from && hour < from + hours;
                steps.rate = DAY[quarter / 4] * if flashes { factor } else { 1.0 } / diurnal_mean();
                steps.until_ns += quarter_ns;
            }
        }
    }

    /// Where a unit-rate Poisson process seen through the changing rate has its next point.
    fn next_modulated(&mut self) -> f64 {
        let mut left_ns = self.rng.unit_exponential() * self.mean_ns;
        let mut now_ns = self.now_ns;
        loop {
            let step_ns = (self.steps.until_ns - now_ns) * self.steps.rate;
            if left_ns <= step_ns {
                return now_ns + left_ns / self.steps.rate;
            }
            left_ns -= step_ns;
            now_ns = self.steps.until_ns;
            self.step();
        }
    }
}

impl Iterator for Gaps {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.now_ns = match self.process {
            Process::Constant => self.now_ns + self.mean_ns,
            Process::Gamma { cv } => {
                let shape = 1.0 / (cv * cv);
                self.now_ns + self.rng.gamma(shape) / shape * self.mean_ns
            }
            Process::Poisson => self.now_ns + self.rng.unit_exponential() * self.mean_ns,
            Process::TwoState(_) | Process::Conversation | Process::Diurnal { .. } => self.next_modulated(),
        };
        Some(self.now_ns as u64)
    }
}

/// Mean rate of a day with its flash, over the mean of the day without.
fn diurnal_mean() -> f64 {
    let (factor, from, hours) = FLASH;
    let in_flash = |hour: f64| hour >= from && hour < from + hours;
    let of_hour = |(hour, rate): (usize, &f64)| rate * if in_flash(hour as f64) { factor } else { 1.0 };
    DAY.iter().enumerate().map(of_hour).sum::<f64>() / DAY.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(process: Process, rate: f64, window_ns: u64, windows: usize) -> Vec<f64> {
        let mut counts = vec![0.0; windows];
        for at in Gaps::new(process, rate, Rng::new(11)) {
            match counts.get_mut(usize::try_from(at / window_ns).expect("64 bits")) {
                Some(count) => *count += 1.0,
                None => return counts,
            }
        }
        counts
    }

    /// Variance over mean of the arrivals in windows of so many seconds.
    fn dispersion(counts: &[f64], seconds: usize) -> f64 {
        let sums: Vec<f64> = counts.chunks_exact(seconds).map(|chunk| chunk.iter().sum()).collect();
        let mean = sums.iter().sum::<f64>() / sums.len() as f64;
        sums.iter().map(|sum| (sum - mean) * (sum - mean)).sum::<f64>() / sums.len() as f64 / mean
    }

    /// Mean and coefficient of variation of gaps, in units of the mean asked for.
    fn gaps(process: Process, draws: usize) -> (f64, f64) {
        let times: Vec<_> = Gaps::new(process, 1_000.0, Rng::new(3)).take(draws).collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e6).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean) * (gap - mean)).sum::<f64>() / gaps.len() as f64;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn gaps_have_the_mean_and_the_variation_asked_for() {
        for (process, cv) in [(Process::Constant, 0.0), (Process::Poisson, 1.0)] {
            let (mean, found) = gaps(process, 100_000);
            assert!((mean - 1.0).abs() < 0.01 && (found - cv).abs() < 0.01, "{process:?}: {mean} {found}");
        }
        for (cv, draws) in [(2.0, 200_000), (4.0, 300_000), (8.0, 600_000)] {
            let (mean, found) = gaps(Process::Gamma { cv }, draws);
            assert!((mean - 1.0).abs() < 0.03 && (found / cv - 1.0).abs() < 0.05, "{cv}: {mean} {found}");
        }
    }

    #[test]
    fn changing_rates_keep_their_mean() {
        for process in [Process::mmpp(), Process::code_like()] {
            let mean = counts(process, 20.0, 1_000_000_000, 20_000).iter().sum::<f64>() / 20_000.0;
            assert!((mean / 20.0 - 1.0).abs() < 0.06, "{process:?}: {mean}");
        }
    }

    #[test]
    fn bursts_of_two_states_last_as_long_as_they_should() {
        // Dispersion of a two-state rate over a window far longer than its dwells: 1 + 2 λ v τ.
        let counts = counts(Process::mmpp(), 20.0, 1_000_000_000, 100_000);
        let (variance, tau) = (0.1 * 9.0 + 0.9 / 9.0, 0.45);
        let expected = 1.0 + 2.0 * 20.0 * variance * tau;
        let found = dispersion(&counts, 100);
        assert!((found / expected - 1.0).abs() < 0.15, "{found} for {expected}");
    }

    #[test]
    fn bursts_come_at_the_same_times_at_every_rate() {
        let (low, high) = (counts(Process::mmpp(), 200.0, 1 << 28, 200), counts(Process::mmpp(), 800.0, 1 << 28, 200));
        let differ = low.iter().zip(&high).filter(|(low, high)| (*low * 4.0 - *high).abs() > 0.5 * *high + 80.0);
        assert_eq!(differ.count(), 0, "{low:?} {high:?}");
    }

    #[test]
    fn conversations_disperse_like_the_trace() {
        let counts = counts(Process::Conversation, 5.4, 1_000_000_000, 250_000);
        for (seconds, expected) in [(1, 1.4), (10, 3.9), (60, 16.0)] {
            let found = dispersion(&counts, seconds);
            assert!((found / expected - 1.0).abs() < 0.08, "{seconds} s: {found} for {expected}");
        }
    }

    #[test]
    fn a_day_has_its_mean_its_trough_and_its_flash() {
        let process = Process::Diurnal { length: Duration::from_secs(96) };
        let counts = counts(process, 1_000.0, 1_000_000_000, 96);
        assert!((counts.iter().sum::<f64>() / 96_000.0 - 1.0).abs() < 0.02);
        let hour = |hour: usize| counts[hour * 4..hour * 4 + 4].iter().sum::<f64>();
        assert!((hour(20) / hour(19) / (5.0 * 0.95) - 1.0).abs() < 0.1, "{} {}", hour(20), hour(19));
        assert!(hour(3) < 0.25 * hour(10), "{} {}", hour(3), hour(10));
    }
}
