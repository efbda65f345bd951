//! The fluid law: what evenly spaced arrivals need when nothing may be dropped.

use super::{Demand, capacity, worth};
use crate::scenario::Scenario;

/// Steps of the bisection: to the last bit of any rate.
const STEPS: u32 = 100;

/// The largest total rate, in requests a second at the scenario's shares, at which no request need be late.
///
/// A request that just missed a batch waits for the next one and for that one's time. So a model needs a batch every
/// `T = (D - β) / (1 + αλ)` seconds, and all of them fit when `U = Σ (β + αλD) / (D - β) ≤ W`. A batch has at least one
/// request: where that law asks for more batches a second than there are requests, as it does of models that are rarely
/// asked, they are counted instead. Nor does the law know of a largest batch: the rate is never more than the
/// [`capacity`]. Necessary for evenly spaced arrivals, a reference and no bound for others.
pub fn fluid(scenario: &Scenario) -> f64 {
    let (demands, workers) = (Demand::of(scenario), worth(scenario));
    let rate: f64 = demands.iter().map(|demand| demand.rate).sum();
    let fits = |factor: f64| demands.iter().map(|demand| load(demand, factor)).sum::<f64>() <= workers;
    let (mut below, mut above) = (0.0, 1.0);
    while fits(above) && above < 1e12 {
        (below, above) = (above, above * 2.0);
    }
    for _ in 0..STEPS {
        let middle = (below + above) / 2.0;
        if fits(middle) { below = middle } else { above = middle }
    }
    (rate * below).min(capacity(scenario))
}

/// Workers that a model keeps busy at so many times its rate.
fn load(demand: &Demand, factor: f64) -> f64 {
    let rate = demand.rate * factor;
    let room = demand.objective - demand.beta;
    if room <= 0.0 {
        return if rate > 0.0 { f64::INFINITY } else { 0.0 };
    }
    let work = demand.alpha * rate;
    let batches = ((1.0 + work) / room).min(rate);
    demand.beta * batches + work
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
