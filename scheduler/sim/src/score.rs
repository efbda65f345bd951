//! What an outcome is worth.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_scheduler::{ModelId, TenantId};

use crate::play::{Fate, Outcome, Record};

/// The numbers of one run.
#[derive(Clone, Debug)]
pub struct Score {
    /// Over all requests.
    pub total: Tally,
    /// By tenant.
    pub tenants: BTreeMap<TenantId, Tally>,
    /// By model.
    pub models: BTreeMap<ModelId, Tally>,
    /// Requests on time per second of arrivals.
    pub goodput: f64,
    /// Requests asked per second of arrivals.
    pub offered: f64,
    /// Requests of a batch on average.
    pub batch_mean: f64,
    /// Device time of all batches over the requests answered, in seconds.
    pub device_seconds: f64,
    /// How evenly what was on time is spread over the tenants.
    pub fairness: Fairness,
}

/// What became of some requests. Those that break batches are left out: nobody can answer them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests in all.
    pub asked: u64,
    /// Answered within the objective and the deadline.
    pub on_time: u64,
    /// Answered later.
    pub late: u64,
    /// Refused, failed or forgotten.
    pub shed: u64,
    /// Half of the answers took no longer; zero without answers.
    pub p50: Duration,
    /// 99 in 100 answers took no longer; zero without answers.
    pub p99: Duration,
}

/// How evenly answers are spread. Each tenant's answers on time are compared with what a max-min fair division of all
/// answers on time would give it, which is never more than it asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fairness {
    /// The least part of its fair share that any tenant got, at most 1.
    pub max_min: f64,
    /// Jain's index over those parts: 1 when all are equal, 1 / n when one got everything.
    pub jain: f64,
}

impl Score {
    /// The score of an outcome.
    pub fn of(outcome: &Outcome) -> Self {
        let total = Tally::of(outcome.requests.iter());
        let answered = total.on_time + total.late;
        let seconds = outcome.duration.as_secs_f64();
        let tenants = tallies(&outcome.requests, |record| record.tenant);
        Self {
            goodput: total.on_time as f64 / seconds,
            offered: total.asked as f64 / seconds,
            batch_mean: ratio(outcome.rows, outcome.batches),
            device_seconds: if answered > 0 { outcome.busy.as_secs_f64() / answered as f64 } else { 0.0 },
            fairness: Fairness::of(tenants.values()),
            models: tallies(&outcome.requests, |record| record.model),
            tenants,
            total,
        }
    }
}

impl Tally {
    /// Counts requests.
    pub fn of<'a>(records: impl Iterator<Item = &'a Record>) -> Self {
        let mut tally = Self::default();
        let mut latencies = Vec::new();
        for record in records.filter(|record| !record.is_poison) {
            tally.asked += 1;
            match record.fate {
                Fate::Answered(at) => {
                    latencies.push(at.since(record.at));
                    if at <= record.due { tally.on_time += 1 } else { tally.late += 1 }
                }
                Fate::Shed(_) | Fate::Open => tally.shed += 1,
            }
        }
        latencies.sort_unstable();
        (tally.p50, tally.p99) = (quantile(&latencies, 50), quantile(&latencies, 99));
        tally
    }

    /// Part of the requests that was on time; 1 when there were none.
    pub fn on_time_share(&self) -> f64 {
        if self.asked > 0 { ratio(self.on_time, self.asked) } else { 1.0 }
    }

    /// Part of the requests that was answered late.
    pub fn late_share(&self) -> f64 {
        ratio(self.late, self.asked)
    }

    /// Part of the requests that was not answered.
    pub fn shed_share(&self) -> f64 {
        ratio(self.shed, self.asked)
    }
}

impl Fairness {
    fn of<'a>(tenants: impl Iterator<Item = &'a Tally>) -> Self {
        let mut tenants: Vec<_> = tenants.filter(|tally| tally.asked > 0).collect();
        tenants.sort_by_key(|tally| tally.asked);
        let mut left: f64 = tenants.iter().map(|tally| tally.on_time as f64).sum();
        let mut parts = Vec::new();
        // Who asks for least is satisfied first; what it leaves is divided among the others.
        for (served, tally) in tenants.iter().enumerate() {
            let share = (left / (tenants.len() - served) as f64).min(tally.asked as f64);
            left -= share;
            parts.push(if share > 0.0 { (tally.on_time as f64 / share).min(1.0) } else { 1.0 });
        }
        let (sum, squares) = parts.iter().fold((0.0, 0.0), |(sum, squares), part| (sum + part, squares + part * part));
        Self {
            max_min: parts.iter().copied().fold(1.0, f64::min),
            jain: if squares > 0.0 { sum * sum / (parts.len() as f64 * squares) } else { 1.0 },
        }
    }
}

/// The least of the values, in ascending order, that so many in a hundred do not pass.
pub fn quantile(ascending: &[Duration], percent: usize) -> Duration {
    let rank = (ascending.len() * percent).div_ceil(100).max(1);
    ascending.get(rank - 1).copied().unwrap_or_default()
}

fn tallies<K: Ord + Copy>(records: &[Record], key: impl Fn(&Record) -> K) -> BTreeMap<K, Tally> {
    let mut by_key = BTreeMap::<K, Vec<Record>>::new();
    for record in records {
        by_key.entry(key(record)).or_default().push(*record);
    }
    by_key.into_iter().map(|(key, records)| (key, Tally::of(records.iter()))).collect()
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole > 0 { part as f64 / whole as f64 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use shoal_scheduler::Timestamp;

    use super::*;

    fn record(tenant: u32, fate: Fate) -> Record {
        Record {
            at: Timestamp::from_millis(10),
            due: Timestamp::from_millis(60),
            model: ModelId(0),
            tenant: TenantId(tenant),
            cost: Default::default(),
            is_poison: false,
            fate,
        }
    }

    fn answered(tenant: u32, at_ms: u64) -> Record {
        record(tenant, Fate::Answered(Timestamp::from_millis(at_ms)))
    }

    fn score(requests: Vec<Record>) -> Score {
        let (busy, duration) = (Duration::from_millis(30), Duration::from_secs(2));
        Score::of(&Outcome { requests, batches: 2, hedges: 0, rows: 5, busy, duration, hash: 0 })
    }

    #[test]
    fn counts_on_time_late_and_shed_and_leaves_poison_out() {
        let shed = record(1, Fate::Shed(Timestamp::from_millis(11)));
        let poison = Record { is_poison: true, ..shed };
        let score = score(vec![answered(1, 60), answered(1, 61), shed, poison]);
        let expected = Tally {
            asked: 3,
            on_time: 1,
            late: 1,
            shed: 1,
            p50: Duration::from_millis(50),
            p99: Duration::from_millis(51),
        };
        assert_eq!(score.total, expected);
        assert_eq!((score.goodput, score.offered, score.batch_mean, score.device_seconds), (0.5, 1.5, 2.5, 0.015));
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(quantile(&values, 50), Duration::from_millis(100));
        assert_eq!(quantile(&values, 99), Duration::from_millis(198));
        assert_eq!(quantile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn a_tenant_that_asked_for_little_is_owed_no_more() {
        // 10 answers: the small tenant is owed the 2 it asked for, the others 4 each.
        let of = |tenant, on_time: u64, asked: u64| {
            (0..asked).map(move |n| if n < on_time { answered(tenant, 20) } else { answered(tenant, 99) })
        };
        let fair = score(of(1, 2, 2).chain(of(2, 4, 9)).chain(of(3, 4, 50)).collect()).fairness;
        assert_eq!(fair, Fairness { max_min: 1.0, jain: 1.0 });
        let unfair = score(of(1, 0, 2).chain(of(2, 2, 9)).chain(of(3, 8, 50)).collect()).fairness;
        assert_eq!(unfair.max_min, 0.0);
        assert!((unfair.jain - 1.5 * 1.5 / (3.0 * 1.25)).abs() < 1e-9, "{unfair:?}");
    }
}
