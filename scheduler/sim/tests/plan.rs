//! What a plan promises, held against the scheduler it plans for.

use std::time::Duration;

use shoal_scheduler::plan::{Demand, Law, growth, safe_growth, safe_workers};
use shoal_scheduler::{ModelConfig, OnLate, PolicyConfig};
use shoal_sim::bound::demands;
use shoal_sim::contender::configure;
use shoal_sim::play::play;
use shoal_sim::scenario::{Curve, Scenario, standard};
use shoal_sim::score::Score;

/// A world of so many workers and models.
struct World {
    workers: usize,
    models: u32,
    /// Of the models in turn, in milliseconds.
    objectives: &'static [u64],
    rows_max: u32,
    curve: Curve,
    /// How far batches stray.
    sigma: f64,
}

/// 4 ms a batch and half a millisecond a row.
const CURVE: Curve = Curve { base_ns: 4_000_000, row_ns: 500_000, token_ps: 0, token_squared_fs: 0 };
const WORLD: World = World { workers: 1, models: 1, objectives: &[50], rows_max: 64, curve: CURVE, sigma: 0.0 };

impl World {
    /// One to eight workers and one to thirty-two models with one objective.
    fn alike() -> Vec<Self> {
        let sizes = [(1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 4), (2, 4), (4, 8), (4, 16), (8, 16), (8, 32)];
        sizes.map(|(workers, models)| Self { workers, models, ..WORLD }).into()
    }

    /// The same with objectives that are tight, or far apart, and with other batches.
    fn unlike() -> Vec<Self> {
        let brief = Curve { base_ns: 2_000_000, row_ns: 100_000, ..CURVE };
        let mut worlds = Vec::new();
        for (workers, models) in [(1, 1), (1, 4), (2, 4), (4, 4), (8, 16)] {
            for objectives in [&[9][..], &[14], &[23], &[135]] {
                worlds.push(Self { workers, models, objectives, rows_max: 1_024, ..WORLD });
            }
            worlds.push(Self { workers, models, objectives: &[11], rows_max: 1_024, curve: brief, ..WORLD });
        }
        for (workers, models) in [(1, 2), (1, 8), (2, 4), (4, 8), (4, 16), (8, 16)] {
            for objectives in [&[50, 200][..], &[30, 100, 500], &[50, 1_000], &[1_000, 50]] {
                worlds.push(Self { workers, models, objectives, ..WORLD });
                worlds.push(Self { workers, models, objectives, rows_max: 1_024, ..WORLD });
            }
        }
        worlds
    }

    fn scenario(&self) -> Scenario {
        let mut scenario = standard(self.workers, self.models);
        for (model, objective) in scenario.models.iter_mut().zip(self.objectives.iter().cycle()) {
            (model.curve, model.objective) = (self.curve, Duration::from_millis(*objective));
        }
        for worker in &mut scenario.workers {
            (worker.budget.rows, worker.sigma) = (self.rows_max, self.sigma);
        }
        scenario
    }

    fn demands(&self) -> Vec<Demand> {
        demands(&self.scenario())
    }

    /// How many times as high the scenario's rates can be by the fluid law.
    fn law(&self) -> f64 {
        growth(&self.demands(), Law::Fluid, self.workers as f64)
    }

    /// What became of Poisson arrivals at so many times the scenario's rates.
    fn at(&self, factor: f64, seconds: u64) -> Score {
        let scenario = Scenario { duration: Duration::from_secs(seconds), ..self.scenario() };
        let rate = scenario.rate() * factor;
        let policy = PolicyConfig::Learned { wait_price: 1, waits_when_idle: false, on_late: OnLate::Serve };
        let outcome = play(&scenario.at_rate(rate), |model| ModelConfig {
            cost: Some(model.curve.into()),
            ..configure(model, policy.clone())
        });
        Score::of(&outcome)
    }

    /// The part of the requests to models with the narrowest objective that was on time.
    fn narrowest(&self, score: &Score) -> f64 {
        let least = self.objectives.iter().min();
        let of =
            score.models.iter().filter(|(id, _)| self.objectives.get(id.0 as usize % self.objectives.len()) == least);
        let (on_time, asked) =
            of.fold((0, 0), |(on_time, asked), (_, tally)| (on_time + tally.on_time, asked + tally.asked));
        on_time as f64 / f64::max(asked as f64, 1.0)
    }

    fn name(&self) -> String {
        let Self { workers, models, objectives, rows_max, curve, sigma } = self;
        format!(
            "{workers} workers, {models} models, {objectives:?} ms, {rows_max} rows, {} ns, strays {sigma}",
            curve.base_ns
        )
    }
}

#[test]
fn what_is_safe_keeps_ninety_nine_in_a_hundred_on_time() {
    for world in World::alike().into_iter().chain(World::unlike()) {
        let score = world.at(safe_growth(&world.demands(), world.workers as u64), 5);
        let (total, narrowest) = (score.total.on_time_share(), world.narrowest(&score));
        assert!(total >= 0.99 && narrowest >= 0.99, "{total:.4}, {narrowest:.4} of the narrowest, {}", world.name());
    }
}

/// Plans know what batches take in the mean, and not how far they stray.
#[test]
fn batches_that_stray_by_a_tenth_cost_little_of_it() {
    for world in World::alike().into_iter().chain(World::unlike().into_iter().step_by(2)) {
        let world = World { sigma: 0.1, ..world };
        let score = world.at(safe_growth(&world.demands(), world.workers as u64), 5);
        let (total, narrowest) = (score.total.on_time_share(), world.narrowest(&score));
        assert!(total >= 0.975 && narrowest >= 0.975, "{total:.4}, {narrowest:.4} of the narrowest, {}", world.name());
    }
}

#[test]
fn beyond_what_breaks_an_objective_it_is_lost() {
    for world in World::alike() {
        let score = world.at(1.15 * world.law(), 3);
        let share = score.total.on_time_share();
        assert!(share <= 0.9, "{share:.4} on time, {}", world.name());
    }
    // Where a batch has hardly more than one row, several models share workers better than the law says.
    for world in World::unlike() {
        let narrowest = world.narrowest(&world.at(1.15 * world.law(), 5));
        let most = if world.objectives.len() > 1 { 0.9 } else { 0.987 };
        assert!(narrowest <= most, "{narrowest:.4} of the narrowest on time, {}", world.name());
    }
}

/// Whoever has the least time to wait is late first.
#[test]
fn the_narrowest_objective_is_the_first_that_breaks() {
    for world in World::unlike().into_iter().filter(|world| world.objectives.len() > 1) {
        let score = world.at(1.05 * world.law(), 2);
        let (total, narrowest) = (score.total.on_time_share(), world.narrowest(&score));
        assert!(narrowest < total, "{narrowest:.4} of the narrowest, {total:.4} of all, {}", world.name());
    }
}

/// Asked for a number of workers, a plan gives one that keeps the objectives.
#[test]
fn as_many_workers_as_are_said_to_be_needed_are_enough() {
    for (models, factor) in [(1, 4.0), (4, 2.0), (16, 3.0), (32, 5.0)] {
        let world = World { models, ..WORLD };
        let demands: Vec<_> = world.demands().iter().map(|demand| demand.at_rate(demand.rate * factor)).collect();
        let workers = safe_workers(&demands).expect("a number");
        let world = World { workers: workers as usize, ..world };
        let share = world.at(factor, 5).total.on_time_share();
        assert!(share >= 0.99, "{share:.4} on time at {factor} times the rates, {}", world.name());
    }
}
