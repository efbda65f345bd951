//! The perfect server: the hard bound applied to every instant of a run in place of its average.
//!
//! An answer takes at least so many device-seconds, and they must lie between its request's arrival and its due time.
//! Let all workers together work on one request at a time, each at that least cost, and let them know which to skip: no
//! schedule of batches can answer more in time. After bursts, when the hard bound says little, this one is still sharp.

use std::time::Duration;

use shoal_scheduler::plan::Demand;

use super::{demands, demands_at_best};
use crate::scenario::{Scenario, Stream, Traffic, WorkerSpec};

/// The most requests of the scenario that can be answered in time, those left out that break batches.
///
/// `None` where models differ in cost or objective: then skipping whoever cannot be in time any more is not the best. Nor
/// is there one where who was refused asks again.
/// Like the [`hard`](super::hard) bound it sees requests by their mean cost.
pub fn perfect(scenario: &Scenario) -> Option<u64> {
    let demands = demands(scenario);
    let first = demands.first()?;
    let alike =
        |demand: &Demand| (demand.base, demand.row, demand.objective) == (first.base, first.row, first.objective);
    let is_open = |stream: &Stream| stream.deadline.is_some() || stream.retries > 0;
    if !demands.iter().all(alike) || scenario.traffic.iter().any(is_open) {
        return None;
    }
    let (work, mut pace, mut on_time) = (demands_at_best(scenario).first()?.row_seconds_min(), Pace::of(scenario), 0);
    for ask in Traffic::new(scenario).filter(|ask| !ask.is_poison) {
        let arrives = ask.at.as_nanos() as f64 / 1e9;
        let ahead = pace.after(arrives, work);
        if ahead.now <= arrives + first.objective {
            (pace, on_time) = (ahead, on_time + 1);
        }
    }
    Some(on_time)
}

/// The speed of all workers together over time, and how far it has been used.
#[derive(Clone, Debug)]
struct Pace<'a> {
    workers: &'a [WorkerSpec],
    /// When the speed changes, in seconds, those that are past left out.
    changes: Vec<f64>,
    now: f64,
    speed: f64,
}

impl<'a> Pace<'a> {
    fn of(scenario: &'a Scenario) -> Self {
        let mut changes: Vec<Duration> = scenario.workers.iter().flat_map(WorkerSpec::cuts).collect();
        changes.sort_unstable_by(|one, other| other.cmp(one));
        let changes = changes.iter().map(Duration::as_secs_f64).collect();
        let mut pace = Self { workers: &scenario.workers, changes, now: 0.0, speed: 0.0 };
        pace.turn();
        pace
    }

    /// After so much work that may not begin before a time.
    fn after(&self, begin: f64, mut work: f64) -> Self {
        let mut pace = self.clone();
        pace.now = pace.now.max(begin);
        pace.turn();
        while let Some(change) = pace.changes.last().copied() {
            let possible = (change - pace.now) * pace.speed;
            if work <= possible {
                break;
            }
            work -= possible;
            pace.now = change;
            pace.turn();
        }
        pace.now = if pace.speed > 0.0 { pace.now + work / pace.speed } else { f64::INFINITY };
        pace
    }

    /// Takes the speed of the present.
    fn turn(&mut self) {
        while self.changes.last().is_some_and(|change| *change <= self.now) {
            self.changes.pop();
        }
        let nanos = Duration::from_nanos((self.now * 1e9 + 0.5) as u64);
        self.speed = self.workers.iter().map(|worker| worker.speed_at(nanos)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bound::{capacity, hard, offline};
    use crate::scenario::{Absence, Process, standard};

    #[test]
    fn answers_everything_below_the_capacity_and_no_more_than_it_above() {
        let mut scenario = standard(4, 1);
        scenario.traffic[0].process = Process::Constant;
        scenario.duration = Duration::from_secs(2);
        let most = capacity(&scenario) * 2.05;
        let light = scenario.clone().at_rate(capacity(&scenario) * 0.99);
        assert_eq!(perfect(&light), Some(Traffic::new(&light).count() as u64));
        let heavy = scenario.clone().at_rate(capacity(&scenario) * 2.0);
        let found = perfect(&heavy).expect("models are alike") as f64;
        assert!(found <= most && found > most * 0.97, "{found} of {most}");
        assert!((hard(&heavy) * 2.05 / most - 1.0).abs() < 1e-9);
    }

    #[test]
    fn is_never_below_the_offline_optimum() {
        for seed in 1..=5 {
            let scenario = Scenario { seed, duration: Duration::from_millis(60), ..standard(1, 1) };
            let scenario = scenario.at_rate(3_000.0);
            let arrivals: Vec<_> = Traffic::new(&scenario).map(|ask| ask.at).collect();
            let nanos = |rows: usize| 4_000_000 + 500_000 * rows as u64;
            let best = offline(&arrivals, scenario.models[0].objective, 64, nanos) as u64;
            let found = perfect(&scenario).expect("models are alike");
            assert!(found >= best && found <= arrivals.len() as u64, "{found} {best}");
        }
    }

    #[test]
    fn nobody_is_answered_while_nobody_works() {
        let mut scenario = standard(1, 1).at_rate(1_000.0);
        scenario.duration = Duration::from_secs(3);
        let (from, until) = (Duration::from_secs(1), Some(Duration::from_secs(2)));
        scenario.workers[0].absences = vec![Absence { from, until }];
        let found = perfect(&scenario).expect("models are alike") as f64;
        // All but what comes in that second, save for the last objective of it.
        assert!((found / 2_050.0 - 1.0).abs() < 0.05, "{found}");
    }
}
