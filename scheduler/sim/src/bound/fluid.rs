//! The fluid law: what evenly spaced arrivals need when nothing may be dropped.

use shoal_scheduler::plan::{Law, growth};

use super::{capacity, demands, worth};
use crate::scenario::Scenario;

/// The largest total rate, in requests a second at the scenario's shares, at which no request need be late by
/// [`Law::Fluid`]. Never more than the [`capacity`]. Necessary for evenly spaced arrivals, a reference and no bound for
/// others.
pub fn fluid(scenario: &Scenario) -> f64 {
    let demands = demands(scenario);
    let rate: f64 = demands.iter().map(|demand| demand.rate).sum();
    (rate * growth(&demands, Law::Fluid, worth(scenario))).min(capacity(scenario))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bound::capacity;
    use crate::scenario::standard;

    #[test]
    fn follows_the_closed_form_for_equal_models() {
        // Λ = (W (D - β) - M β) / (α D)
        for (workers, models) in [(1u32, 1), (4, 4), (8, 16)] {
            let expected = (f64::from(workers) * 0.046 - f64::from(models) * 0.004) / (0.000_5 * 0.05);
            let mut scenario = standard(workers as usize, models);
            scenario.models.iter_mut().for_each(|model| model.share = 1.0);
            let found = fluid(&scenario);
            assert!((found / expected - 1.0).abs() < 1e-9, "{workers} {models}: {found} for {expected}");
        }
    }

    #[test]
    fn is_two_thirds_of_the_hard_bound_for_sixteen_models_on_four_workers() {
        let scenario = standard(4, 16);
        let share = fluid(&scenario) / capacity(&scenario);
        assert!((share - 0.675).abs() < 1e-3, "{share}");
    }

    #[test]
    fn is_not_above_what_full_batches_allow() {
        let scenario = standard(4, 1);
        assert_eq!(fluid(&scenario), capacity(&scenario));
    }

    #[test]
    fn many_cold_models_still_have_some_rate() {
        assert!(fluid(&standard(4, 256)) > 500.0);
    }
}
