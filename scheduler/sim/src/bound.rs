//! What nobody could beat, to measure policies against.
//!
//! Four yardsticks of different sharpness: [`hard`] holds for any arrivals and any dropping of requests; [`perfect`] says
//! the same of the very arrivals of a run; [`fluid`] is what evenly spaced arrivals need when nothing is dropped;
//! [`offline`] is exact, for one worker and one model. All but the last see requests by their mean cost. A policy that serves the short ones first may
//! therefore pass them where lengths vary, and noisy service times may pass them a little.

mod fluid;
mod hard;
mod offline;
mod perfect;

pub use fluid::fluid;
pub use hard::{capacity, hard};
pub use offline::offline;
pub use perfect::perfect;

use crate::scenario::{ModelSpec, Scenario};

/// One model's side of the bounds.
#[derive(Clone, Copy, Debug)]
struct Demand {
    /// Seconds of every batch.
    beta: f64,
    /// Seconds of one more request.
    alpha: f64,
    /// Seconds an answer may take.
    objective: f64,
    /// Requests of the largest batch a budget allows.
    batch_max: u64,
    /// Requests a second.
    rate: f64,
}

impl Demand {
    fn of(scenario: &Scenario) -> Vec<Self> {
        let rates = scenario.model_rates();
        scenario.models.iter().zip(rates).map(|(model, rate)| Self::new(scenario, model, rate)).collect()
    }

    fn new(scenario: &Scenario, model: &ModelSpec, rate: f64) -> Self {
        let asking = scenario.traffic.iter().filter(|stream| stream.models.may_be(model.id));
        // The shortest kind of requests fills the largest batches.
        let tokens = asking.map(|stream| stream.lengths.mean()).fold(f64::INFINITY, f64::min);
        let fitting = scenario.workers.iter().map(|worker| {
            let by_tokens = if tokens > 0.0 { f64::from(worker.budget.tokens) / tokens } else { f64::INFINITY };
            f64::from(worker.budget.rows).min(by_tokens) as u64
        });
        Self {
            beta: model.curve.base_ns as f64 / 1e9,
            alpha: scenario.request_ns(model) / 1e9,
            objective: model.objective.as_secs_f64(),
            batch_max: fitting.max().unwrap_or(0).max(1),
            rate,
        }
    }
}

/// Workers of slowness 1 that the scenario's workers are worth, averaged over its duration.
fn worth(scenario: &Scenario) -> f64 {
    let seconds = scenario.duration.as_secs_f64();
    scenario.workers.iter().map(|worker| worker.device_seconds(scenario.duration)).sum::<f64>() / seconds
}

/// The least slowness that any worker ever has.
fn least_slowness(scenario: &Scenario) -> f64 {
    let ever = scenario.workers.iter().flat_map(|worker| {
        worker.changes.iter().map(|change| worker.slowness * change.factor).chain([worker.slowness])
    });
    ever.fold(f64::INFINITY, f64::min)
}
