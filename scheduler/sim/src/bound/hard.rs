//! The hard bound: a worker can answer no faster than by running full batches that just meet the objective, one after
//! the other.

use shoal_scheduler::plan::{Law, growth};

use super::{demands_at_best, worth};
use crate::scenario::Scenario;

/// On-time answers a second that no policy can pass, at the scenario's rates: `W · max{ b / l(b) : l(b) ≤ D }` for equal
/// models. Where models differ the cheapest are served first, none beyond its own rate.
pub fn hard(scenario: &Scenario) -> f64 {
    let demands = demands_at_best(scenario).into_iter();
    let mut costs: Vec<_> = demands.map(|demand| (demand.row_seconds_min(), demand.rate)).collect();
    costs.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let mut left = worth(scenario);
    let mut answers = 0.0;
    for (seconds, rate) in costs {
        let served = rate.min(left / seconds);
        answers += served;
        left -= served * seconds;
    }
    answers
}

/// Requests a second at which the hard bound is reached by all models together, at the scenario's shares: what reports
/// call 100 % load.
pub fn capacity(scenario: &Scenario) -> f64 {
    let demands = demands_at_best(scenario);
    let rate: f64 = demands.iter().map(|demand| demand.rate).sum();
    rate * growth(&demands, Law::Full, worth(scenario))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::standard;

    #[test]
    fn is_full_batches_on_every_worker() {
        // l(64) = 36 ms is within 50 ms: 64 answers in 36 ms on each of 4 workers.
        let scenario = standard(4, 1).at_rate(20_000.0);
        assert!((hard(&scenario) - 4.0 * 64.0 / 0.036).abs() < 1e-6);
        assert!((capacity(&scenario) - hard(&scenario)).abs() < 1e-6);
    }

    #[test]
    fn is_the_offered_rate_while_that_is_lower() {
        assert!((hard(&standard(1, 16).at_rate(500.0)) - 500.0).abs() < 1e-9);
    }

    #[test]
    fn is_lower_where_the_objective_forbids_full_batches() {
        let mut scenario = standard(1, 1).at_rate(20_000.0);
        scenario.models[0].objective = std::time::Duration::from_millis(14);
        assert!((hard(&scenario) - 20.0 / 0.014).abs() < 1e-6, "{}", hard(&scenario));
    }

    #[test]
    fn cheap_models_count_first() {
        let mut scenario = standard(1, 2).at_rate(10_000.0);
        scenario.models[1].curve.row_ns /= 5;
        let shares = scenario.model_rates();
        // 64 rows in 4 + 6.4 ms: the cheap one takes part of the worker, the other what is left.
        let used = shares[1] * 0.0104 / 64.0;
        let expected = shares[1] + (1.0 - used) * 64.0 / 0.036;
        assert!((hard(&scenario) - expected).abs() < 1e-6);
    }
}
