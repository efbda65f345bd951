//! Inputs that break the devices they run on, under load, with two batches in flight on each.

use std::time::Duration;

use shoal_scheduler::{OnLate, PolicyConfig};
use shoal_sim::contender::Variant;
use shoal_sim::play::{Fate, Outcome, play};
use shoal_sim::scenario::{Curve, ModelSpec, Scenario, Stream, WorkerSpec, standard};
use shoal_sim::score::Score;

/// Large batches that are run for as long as people wait, so that a few poisons are enough to hit neighbours.
fn world(workers: usize, rate: f64) -> Scenario {
    let curve = Curve { base_ns: 40_000_000, row_ns: 10_000_000, ..Curve::default() };
    let spec = WorkerSpec { slots: 2, link: Duration::from_millis(2), ..WorkerSpec::default() };
    Scenario {
        models: ModelSpec::alike(2, Duration::from_secs(2), curve),
        workers: vec![spec; workers],
        traffic: vec![Stream::poisson(rate)],
        duration: Duration::from_secs(30),
        ..standard(workers, 2)
    }
}

/// The same, where one request in a thousand breaks its device.
fn poisoned(mut world: Scenario) -> Scenario {
    (world.faults.poison_per_mille, world.faults.poison_breaks_devices) = (1, true);
    world
}

fn run(scenario: &Scenario) -> Outcome {
    let policy = PolicyConfig::Learned { wait_price: 1, waits_when_idle: false, on_late: OnLate::Serve };
    let variant = Variant::new("", move |_| policy.clone());
    play(scenario, |model| variant.configure(model))
}

/// Poisons, those of them without an answer, innocents, and those of them with one.
fn counts(outcome: &Outcome) -> (usize, usize, usize, usize) {
    let of = |is_poison: bool| outcome.requests.iter().filter(move |record| record.is_poison == is_poison);
    let is_answered = |fate: Fate| matches!(fate, Fate::Answered(_));
    let refused = of(true).filter(|record| matches!(record.fate, Fate::Shed(_))).count();
    (of(true).count(), refused, of(false).count(), of(false).filter(|record| is_answered(record.fate)).count())
}

#[test]
fn whoever_is_near_an_input_that_breaks_devices_is_answered() {
    println!("| requests a second, seed | poisons | innocents without an answer | goodput without poison | with it |");
    for rate in [120.0, 200.0, 240.0] {
        for seed in 1..=4 {
            let world = Scenario { seed, ..world(4, rate) };
            let (pure, outcome) = (run(&world), run(&poisoned(world)));
            let (poisons, refused, innocents, answered) = counts(&outcome);
            let goodput = [&pure, &outcome].map(|outcome| Score::of(outcome).goodput);
            println!(
                "| {rate}, {seed} | {poisons} | {} of {innocents} | {:.1} | {:.1} |",
                innocents - answered,
                goodput[0],
                goodput[1]
            );
            assert!(poisons > 0, "{rate}, {seed}");
            assert_eq!((refused, answered), (poisons, innocents), "{rate}, {seed}");
        }
    }
}

#[test]
fn one_poison_stops_the_only_worker_for_no_longer_than_its_attempts_take() {
    let mut seen = 0;
    for seed in 1..=16 {
        // Of some 400 requests hardly ever more than one is poison.
        let world = Scenario { seed, ..world(1, 30.0) };
        let outcome = run(&poisoned(Scenario { duration: Duration::from_secs(13), ..world }));
        let (poisons, refused, innocents, answered) = counts(&outcome);
        assert_eq!((refused, answered), (poisons, innocents), "{seed}");
        for record in outcome.requests.iter().filter(|record| record.is_poison) {
            let Fate::Shed(at) = record.fate else { panic!("{record:?}") };
            // It is halved at most six times, and then lost three times alone; each time a second and some batches.
            println!("seed {seed}: of {poisons} poisons one is gone after {:.1?}", at.since(record.at));
            seen += 1;
            assert!(at.since(record.at) < Duration::from_secs(15) * poisons as u32, "{seed}");
        }
    }
    assert!(seen > 3, "{seen} poisons");
}
