use std::time::Duration;

use super::{Schedule, mean_and_cv};
use crate::client::load::modulated::Modulation;
use crate::client::load::process::Process;
use crate::client::load::trace::Trace;

/// The gaps of so many calls.
fn gaps(process: &Process, rate: f64, calls: usize) -> Vec<f64> {
    let moments: Vec<f64> = Schedule::new(process, rate, 7).take(calls).map(|moment| moment.as_secs_f64()).collect();
    std::iter::once(moments[0]).chain(moments.windows(2).map(|w| w[1] - w[0])).collect()
}

/// One of each that is drawn.
static DRAWN: [Process; 4] = [
    Process::Poisson,
    Process::Gamma { cv: 4.0 },
    Process::Mmpp(Modulation::BURSTS),
    Process::CodeLike(Modulation::CODE),
];

#[test]
fn constant_calls_have_equal_gaps_that_do_not_drift() {
    let moments: Vec<_> = Schedule::new(&Process::Constant, 3.0, 0).take(3_000_001).collect();
    assert_eq!(moments[0], Duration::ZERO);
    assert_eq!(moments[3], Duration::from_secs(1));
    assert_eq!(moments[3_000_000], Duration::from_secs(1_000_000));
}

#[test]
fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
    let gaps = gaps(&Process::Poisson, 200.0, 100_000);
    let (mean, cv) = mean_and_cv(&gaps);
    // One standard error of the mean is 0.3 %, of the deviation about 0.5 %.
    assert!((mean * 200.0 - 1.0).abs() < 0.015, "{mean}");
    assert!((cv - 1.0).abs() < 0.025, "{cv}");
    // P(gap > 1/rate) = 1/e.
    let long = gaps.iter().filter(|gap| **gap > 1.0 / 200.0).count() as f64 / gaps.len() as f64;
    assert!((long - (-1.0f64).exp()).abs() < 0.008, "{long}");
}

#[test]
fn gamma_gaps_have_the_mean_and_the_spread_that_were_asked_for() {
    for cv in [0.5, 2.0, 4.0] {
        let (mean, found) = mean_and_cv(&gaps(&Process::Gamma { cv }, 200.0, 200_000));
        assert!((mean * 200.0 - 1.0).abs() < 0.04, "{cv}: {mean}");
        assert!((found / cv - 1.0).abs() < 0.05, "{cv}: {found}");
    }
}

#[test]
fn modulated_calls_come_at_the_mean_rate_and_in_bursts() {
    // Counted by the second: Poisson has a variance as large as its mean, bursts have much more.
    for (process, dispersion) in [(&DRAWN[0], 0.9..1.1), (&DRAWN[2], 45.0..65.0), (&DRAWN[3], 230.0..350.0)] {
        const SECONDS: usize = 20_000;
        let mut counts = vec![0.0; SECONDS];
        for moment in Schedule::new(process, 100.0, 7).take_while(|moment| moment.as_secs() < SECONDS as u64) {
            counts[moment.as_secs() as usize] += 1.0;
        }
        let (mean, cv) = mean_and_cv(&counts);
        assert!((mean / 100.0 - 1.0).abs() < 0.08, "{process}: {mean}");
        assert!(dispersion.contains(&(cv * cv * mean)), "{process}: {}", cv * cv * mean);
    }
}

#[test]
fn the_same_seed_gives_the_same_moments() {
    for process in &DRAWN {
        let take = |seed| Schedule::new(process, 10.0, seed).take(50).collect::<Vec<_>>();
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
        assert!(take(1).is_sorted());
    }
}

#[test]
fn a_trace_is_replayed_from_its_first_call_and_then_ends() {
    let trace = Trace::parse("t.csv", "seconds", "seconds\n10\n10.5\n10.5\n13\n").unwrap();
    let (own, process) = (trace.rate(), Process::Replay(trace));
    let moments = |rate| Schedule::new(&process, rate, 0).map(|moment| moment.as_secs_f64()).collect::<Vec<_>>();
    assert_eq!(own, 1.0);
    assert_eq!(moments(own), [0.0, 0.5, 0.5, 3.0]);
    assert_eq!(moments(2.0), [0.0, 0.25, 0.25, 1.5]);
}

#[test]
fn a_rate_near_zero_does_not_overflow() {
    assert_eq!(Schedule::new(&Process::Constant, 1e-300, 0).nth(1), Some(Duration::MAX));
    for process in &DRAWN {
        assert_eq!(Schedule::new(process, 1e-300, 0).nth(1), Some(Duration::MAX), "{process}");
    }
}
