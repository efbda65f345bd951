//! The scenarios of the report, each at the load that tells policies apart.

use std::time::Duration;

use shoal_scheduler::Budget;

use super::{
    Absence, Change, Choice, Curve, Faults, Hang, Lengths, ModelSpec, Process, Scenario, Stream, Tenants, WorkerSpec,
};
use crate::bound;

/// The prototype's model: 4 ms a batch and half a millisecond a row, to be answered within 50 ms.
const ROWS: Curve = Curve { base_ns: 4_000_000, row_ns: 500_000, token_ps: 0, token_squared_fs: 0 };
/// A small encoder on a data-centre GPU: 2 ms a batch, 3 µs a token.
const TOKENS: Curve = Curve { base_ns: 2_000_000, row_ns: 30_000, token_ps: 3_000_000, token_squared_fs: 800_000 };
/// Of both.
const OBJECTIVE: Duration = Duration::from_millis(50);
/// What prompts of a large generator are multiplied by to suit an encoder of 512 tokens.
const SCALE: f64 = 0.06;

/// A scenario that can be had at any load.
#[derive(Clone, Debug)]
pub struct Family {
    /// What is special about it, in one sentence.
    pub about: &'static str,
    /// Offered rate over the [`capacity`](bound::capacity) at which the report shows it.
    pub load: f64,
    /// At any rate: [`at`](Self::at) sets it.
    scenario: Scenario,
}

impl Family {
    /// What it is called.
    pub fn name(&self) -> &str {
        &self.scenario.name
    }

    /// The scenario at so many times its capacity.
    pub fn at(&self, load: f64) -> Scenario {
        let rate = bound::capacity(&self.scenario) * load;
        self.scenario.clone().at_rate(rate)
    }

    /// The scenario at the load the report shows it at.
    pub fn shown(&self) -> Scenario {
        self.at(self.load)
    }
}

/// Equal models of the prototype under Poisson arrivals, asked for by Zipf's law with exponent 0.9, on equal workers.
pub fn standard(workers: usize, models: u32) -> Scenario {
    Scenario {
        name: format!("poisson-{workers}w-{models}m"),
        models: ModelSpec::zipf(models, 0.9, OBJECTIVE, ROWS),
        workers: vec![WorkerSpec::default(); workers],
        traffic: vec![Stream::poisson(1_000.0)],
        faults: Faults::default(),
        duration: Duration::from_secs(20),
        seed: 1,
    }
}

/// Every scenario of the report. `duration` is that of the ordinary ones; those with slow bursts take three times as
/// long. All of them draw from `seed`.
pub fn catalog(duration: Duration, seed: u64) -> Vec<Family> {
    let mut families = steady();
    families.extend(bursts(duration));
    families.extend(shapes());
    families.extend(changes(duration));
    for family in &mut families {
        let is_slow = family.scenario.traffic.iter().any(|stream| has_slow_bursts(stream.process));
        family.scenario.duration = if is_slow { duration * 3 } else { duration };
        family.scenario.seed = seed;
    }
    families
}

fn family(about: &'static str, load: f64, scenario: Scenario) -> Family {
    Family { about, load, scenario }
}

/// The standard world with one thing changed.
fn with(name: &str, workers: usize, models: u32, change: impl FnOnce(&mut Scenario)) -> Scenario {
    let mut scenario = Scenario { name: name.into(), ..standard(workers, models) };
    change(&mut scenario);
    scenario
}

/// Whether bursts are seconds apart, so that a run has to last for some of them.
fn has_slow_bursts(process: Process) -> bool {
    matches!(process, Process::TwoState(_) | Process::Conversation)
}

fn steady() -> Vec<Family> {
    let constant = with("constant-4w-1m", 4, 1, |world| world.traffic[0].process = Process::Constant);
    let overload = Scenario { name: "overload-4w-1m".into(), ..standard(4, 1) };
    vec![
        family("One model on one worker.", 0.9, standard(1, 1)),
        family("One model on four workers.", 0.9, standard(4, 1)),
        family("Nearly idle: what waiting costs and what it saves.", 0.1, with("idle-4w-1m", 4, 1, |_| {})),
        family("Evenly spaced arrivals.", 0.9, constant),
        family("Three times what can be answered.", 3.0, overload),
        family("Sixteen models, Zipf 0.9, on four workers.", 0.6, standard(4, 16)),
        family("Sixty-four models.", 0.3, standard(4, 64)),
        family("Two hundred and fifty-six models: nearly every batch is of one request.", 0.1, standard(4, 256)),
    ]
}

fn bursts(duration: Duration) -> Vec<Family> {
    let bursty = |name: &str, process| with(name, 4, 1, |world| world.traffic[0].process = process);
    vec![
        family("Four times the rate for half a second, a tenth of the time.", 0.5, bursty("mmpp", Process::mmpp())),
        family("Gamma gaps, CV 2.", 0.8, bursty("gamma-2", Process::Gamma { cv: 2.0 })),
        family("Gamma gaps, CV 4.", 0.7, bursty("gamma-4", Process::Gamma { cv: 4.0 })),
        family("Gamma gaps, CV 8.", 0.6, bursty("gamma-8", Process::Gamma { cv: 8.0 })),
        family(
            "A day with a flash of five times the rate.",
            0.4,
            bursty("diurnal-flash", Process::Diurnal { length: duration }),
        ),
    ]
}

/// Where requests differ in length or tenant.
fn shapes() -> Vec<Family> {
    let tokens = |name: &str, process, lengths: Lengths| {
        with(name, 4, 1, |world| {
            world.models = ModelSpec::alike(1, OBJECTIVE, TOKENS);
            world.traffic[0] = Stream { process, lengths, ..Stream::poisson(1_000.0) };
        })
    };
    let flood = with("tenant-flood", 4, 1, |world| {
        // Five tenants may have a fifth each. Four ask for 15 % each, one for three times everything.
        let fair = Stream { tenants: Tenants { first: 1, count: 4 }, ..Stream::poisson(600.0) };
        let greedy = Stream { tenants: Tenants { first: 5, count: 1 }, ..Stream::poisson(3_000.0) };
        world.traffic = vec![fair, greedy];
    });
    let two_kinds = with("two-objectives", 4, 2, |world| {
        world.models = ModelSpec::alike(2, OBJECTIVE, ROWS);
        world.models[1].objective = OBJECTIVE * 4;
        let of = |model: u32| Choice::One(world.models[model as usize].id);
        let stream = |model, rate| Stream { models: of(model), ..Stream::poisson(rate) };
        world.traffic = vec![stream(0, 500.0), stream(1, 500.0)];
    });
    let calls = with("large-calls", 4, 1, |world| world.traffic[0].call = (16, 64));
    vec![
        family("Calls of 16 to 64 requests.", 0.25, calls),
        family(
            "Bursts and prompts of the code trace, on a small encoder.",
            0.4,
            tokens("code-like", Process::code_like(), Lengths::code(SCALE)),
        ),
        family(
            "Arrivals and prompts of the conversation trace.",
            0.6,
            tokens("conversation-like", Process::Conversation, Lengths::conversation(SCALE)),
        ),
        family("Nine short requests to one long.", 0.85, tokens("bimodal", Process::Poisson, Lengths::Bimodal)),
        family("Short and long alike.", 0.85, tokens("uniform", Process::Poisson, Lengths::Uniform(8, 256))),
        family("Two models, one with four times the objective.", 0.8, two_kinds),
        family("One tenant asks for three times everything, four stay within their share.", 3.6, flood),
    ]
}

/// Where workers differ or change, and what goes wrong.
fn changes(duration: Duration) -> Vec<Family> {
    let third = duration / 3;
    let drift = |factor: f64| {
        move |world: &mut Scenario| {
            for worker in &mut world.workers {
                (worker.sigma, worker.changes) = (0.05, vec![Change { at: third, factor }]);
            }
        }
    };
    let straggler = with("straggler", 4, 1, |world| {
        world.workers[0].changes = vec![Change { at: third, factor: 5.0 }, Change { at: third * 2, factor: 1.0 }];
    });
    let hang = with("hang", 4, 1, |world| {
        for (worker, from) in world.workers.iter_mut().zip([third / 2, third, third * 3 / 2, third * 2]) {
            worker.hangs = vec![Hang { from, until: from + Duration::from_secs(2).min(third / 2) }];
        }
    });
    let mixed = with("unequal-workers", 4, 1, |world| {
        world.workers[2].slowness = 2.0;
        world.workers[3].slowness = 2.0;
    });
    let loss = with("worker-loss", 4, 1, |world| {
        world.workers[0].absences = vec![Absence { from: third, until: Some(third * 2) }];
    });
    let herd = with("retry-herd", 4, 1, |world| {
        world.traffic[0].retries = 5;
        for worker in &mut world.workers[..3] {
            worker.absences = vec![Absence { from: third, until: Some(third + Duration::from_secs(1).min(third / 2)) }];
        }
    });
    let slow_loads = with("slow-loads", 4, 4, |world| {
        world.models.iter_mut().for_each(|model| model.load = Duration::from_millis(300));
        world.workers[0].absences = vec![Absence { from: third, until: Some(third * 2) }];
    });
    let memory = with("out-of-memory", 4, 1, |world| world.faults.memory_max = Some(40));
    let told = |name, factor| with(name, 4, 1, |world| world.models[0].prior = Some(factor));
    let linked = with("far-workers", 4, 1, |world| {
        let budget = Budget { rows: 64, ..WorkerSpec::default().budget };
        let link = Duration::from_millis(2);
        world.workers = vec![WorkerSpec { slots: 2, link, budget, ..WorkerSpec::default() }; 4];
    });
    vec![
        family(
            "Noisy service times.",
            0.7,
            with("noise", 4, 1, |world| world.workers.iter_mut().for_each(|worker| worker.sigma = 0.3)),
        ),
        family("Every worker becomes half as fast.", 0.5, with("drift-slower", 4, 1, drift(2.0))),
        family("Every worker becomes twice as fast.", 0.5, with("drift-faster", 4, 1, drift(0.5))),
        family("One of four workers is five times slower for a third of the time.", 0.6, straggler),
        family("Each of four workers stops answering for two seconds, one after the other.", 0.5, hang),
        family("Two of four workers are half as fast.", 0.7, mixed),
        family("One of four workers is killed and comes back.", 0.7, loss),
        family("Three of four workers are gone for a second, and whoever is refused asks again.", 0.8, herd),
        family("Workers take 0.3 seconds for each model, at the start and when one comes back.", 0.5, slow_loads),
        family(
            "One request in a thousand breaks its batch.",
            0.6,
            with("poison", 4, 1, |world| world.faults.poison_per_mille = 1),
        ),
        family("Batches of more than 40 rows do not fit the device.", 0.7, memory),
        family("What was known before is a fifth of the truth.", 0.7, told("wrong-prior-low", 0.2)),
        family("What was known before is five times the truth.", 0.7, told("wrong-prior-high", 5.0)),
        family("Two milliseconds to each worker, two slots to hide them.", 0.7, linked),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_offers_the_load_it_says() {
        let families = catalog(Duration::from_secs(5), 1);
        let names: BTreeSet<_> = families.iter().map(Family::name).collect();
        assert_eq!(names.len(), families.len());
        for family in &families {
            let scenario = family.shown();
            let load = scenario.rate() / bound::capacity(&scenario);
            assert!((load / family.load - 1.0).abs() < 1e-9, "{}: {load}", scenario.name);
        }
    }
}
