//! What a run came to, in figures that a simulated and a real one have alike.

use std::time::Duration;

use shoal_scheduler::Timestamp;
use shoal_sim::play::{Fate, Outcome};
use shoal_sim::score::quantile;

use crate::shoal::Report;

/// The figures of one run. Times count from the moment a request was to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// Part of the requests that was answered within the objective.
    pub(crate) on_time: f64,
    /// Part of the requests that was refused or failed.
    pub(crate) unanswered: f64,
    /// Of those answered, in milliseconds.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Requests in the mean batch.
    pub(crate) batch: f64,
}

impl Figures {
    /// Of the requests of a simulated run that arrive at `from` or later. Each answer takes `hop` longer to its client and
    /// `objective` is from client to client.
    pub(crate) fn simulated(outcome: &Outcome, from: Timestamp, objective: Duration, hop: Duration) -> Self {
        let measured = || outcome.requests.iter().filter(|record| record.at >= from);
        let latency = |record: &shoal_sim::play::Record| match record.fate {
            Fate::Answered(at) => Some(at.since(record.at) + hop),
            Fate::Shed(_) | Fate::Open => None,
        };
        let asked = measured().count().max(1) as f64;
        let mut latencies: Vec<Duration> = measured().filter_map(latency).collect();
        latencies.sort_unstable();
        Self {
            on_time: latencies.partition_point(|latency| *latency <= objective) as f64 / asked,
            unanswered: 1.0 - latencies.len() as f64 / asked,
            p50_ms: quantile(&latencies, 50).as_secs_f64() * 1e3,
            p99_ms: quantile(&latencies, 99).as_secs_f64() * 1e3,
            batch: if outcome.batches > 0 { outcome.rows as f64 / outcome.batches as f64 } else { 0.0 },
        }
    }

    /// Of a real run that was held to an objective.
    pub(crate) fn real(report: &Report) -> Self {
        let asked = (report.calls.sent + report.calls.overflow).max(1) as f64;
        Self {
            on_time: report.objective.map_or(0.0, |objective| objective.share),
            unanswered: (report.calls.failed + report.calls.overflow) as f64 / asked,
            p50_ms: report.latency_us.p50 as f64 / 1e3,
            p99_ms: report.latency_us.p99 as f64 / 1e3,
            batch: report.batch_rows_mean.unwrap_or(0.0),
        }
    }

    /// Figure by figure the median of some runs.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(runs.iter().map(figure).collect());
        Self {
            on_time: of(|run| run.on_time),
            unanswered: of(|run| run.unanswered),
            p50_ms: of(|run| run.p50_ms),
            p99_ms: of(|run| run.p99_ms),
            batch: of(|run| run.batch),
        }
    }
}

/// The value in the middle, the mean of the two for an even number of them; 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// By how much of `expected` a value is above it; negative below.
pub(crate) fn error(found: f64, expected: f64) -> f64 {
    if found == expected { 0.0 } else { found / expected - 1.0 }
}

/// How sure a number is that others of the machine's work touched.
pub(crate) struct Round {
    pub(crate) figures: Figures,
    /// Their part of the machine's time.
    pub(crate) others: f64,
}

/// The median of the rounds in which the machine was quiet, or of all if it never was; and whether it was.
pub(crate) fn quiet_median(rounds: &[Round], others_max: f64) -> (Figures, bool) {
    let quiet: Vec<_> = rounds.iter().filter(|round| round.others <= others_max).map(|round| round.figures).collect();
    if quiet.is_empty() {
        let all: Vec<_> = rounds.iter().map(|round| round.figures).collect();
        return (Figures::median(&all), false);
    }
    (Figures::median(&quiet), true)
}

#[cfg(test)]
mod tests {
    use shoal_scheduler::{Cost, ModelId, TenantId};
    use shoal_sim::play::Record;

    use super::*;

    fn record(at_ms: u64, fate: Fate) -> Record {
        Record {
            at: Timestamp::from_millis(at_ms),
            due: Timestamp::from_millis(at_ms + 50),
            model: ModelId(0),
            tenant: TenantId(1),
            cost: Cost::default(),
            is_poison: false,
            fate,
        }
    }

    fn answered(at_ms: u64, after_ms: u64) -> Record {
        record(at_ms, Fate::Answered(Timestamp::from_millis(at_ms + after_ms)))
    }

    #[test]
    fn a_simulated_run_counts_from_the_warm_up_on_and_with_the_way_to_the_client() {
        let requests = vec![
            answered(5, 1), // of the warm-up
            answered(10, 48),
            answered(11, 49),
            answered(12, 60),
            record(13, Fate::Shed(Timestamp::from_millis(14))),
        ];
        let (busy, duration) = (Duration::from_millis(1), Duration::from_secs(1));
        let outcome = Outcome { requests, batches: 2, hedges: 0, rows: 5, busy, duration, hash: 0 };
        let ms = Duration::from_millis;
        let figures = Figures::simulated(&outcome, Timestamp::from_millis(10), ms(50), ms(2));
        let expected = Figures { on_time: 0.25, unanswered: 0.25, p50_ms: 51.0, p99_ms: 62.0, batch: 2.5 };
        assert_eq!(figures, expected);
    }

    #[test]
    fn medians_are_taken_figure_by_figure_and_of_quiet_rounds_if_there_are_any() {
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(vec![4.0, 1.0]), median(Vec::new())), (2.0, 2.5, 0.0));
        let round = |p50_ms, others| Round { figures: Figures { p50_ms, ..Figures::default() }, others };
        let p50 = |rounds: &[Round]| {
            let (figures, is_quiet) = quiet_median(rounds, 0.2);
            (figures.p50_ms, is_quiet)
        };
        assert_eq!(p50(&[round(1.0, 0.0), round(3.0, 0.1), round(9.0, 0.5)]), (2.0, true));
        assert_eq!(p50(&[round(1.0, 0.3), round(3.0, 0.9)]), (2.0, false));
    }

    #[test]
    fn an_error_is_a_part_of_what_was_expected() {
        assert!((error(1.1, 1.0) - 0.1).abs() < 1e-9 && (error(45.0, 50.0) + 0.1).abs() < 1e-9);
        assert_eq!(error(0.0, 0.0), 0.0);
        assert_eq!(error(1.0, 0.0), f64::INFINITY);
    }
}
