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
use shoal_scheduler::plan::Demand;

use crate::scenario::{ModelSpec, Scenario};

/// What is asked of each model, in their order, and what its batches take on a worker of slowness 1.
pub fn demands(scenario: &Scenario) -> Vec<Demand> {
    let rates = scenario.model_rates();
    scenario.models.iter().zip(rates).map(|(model, rate)| demand(scenario, model, rate)).collect()
}

fn demand(scenario: &Scenario, model: &ModelSpec, rate: f64) -> Demand {
    let asking = scenario.traffic.iter().filter(|stream| stream.models.may_be(model.id));
    // The shortest kind of requests fills the largest batches.
    let tokens = asking.map(|stream| stream.lengths.mean()).fold(f64::INFINITY, f64::min);
    let fitting = scenario.workers.iter().map(|worker| {
        let by_tokens = if tokens > 0.0 { f64::from(worker.budget.tokens) / tokens } else { f64::INFINITY };
        f64::from(worker.budget.rows).min(by_tokens) as u64
    });
    Demand {
        base: model.curve.base_ns as f64 / 1e9,
        row: scenario.request_ns(model) / 1e9,
        objective: model.objective.as_secs_f64(),
        batch_rows_max: fitting.max().unwrap_or(0).max(1),
        rate,
    }
}

/// The same on the fastest that any worker ever is.
fn demands_at_best(scenario: &Scenario) -> Vec<Demand> {
    let slowness = least_slowness(scenario);
    let at_best = |demand: Demand| Demand { objective: demand.objective / slowness, ..demand };
    demands(scenario).into_iter().map(at_best).collect()
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
