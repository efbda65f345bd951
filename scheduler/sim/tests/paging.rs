//! More models than devices have room for: what it is worth to know where weights are.

use std::time::Duration;

use shoal_scheduler::{OnLate, PolicyConfig};
use shoal_sim::contender::Variant;
use shoal_sim::play::play;
use shoal_sim::scenario::{Curve, ModelSpec, Scenario, Stream, Told, Weights, WorkerSpec, standard};
use shoal_sim::score::{Score, Tally};

/// Four devices with room for eight of 24 models each, 2 ms and more a batch and 10 ms a page-in.
fn world(rate: f64, told: Told) -> Scenario {
    let curve = Curve { base_ns: 2_000_000, row_ns: 100_000, ..Curve::default() };
    let weights =
        Some(Weights { models_max: 8, page_in: Duration::from_millis(10), told, strangers_every: Duration::ZERO });
    Scenario {
        models: ModelSpec::zipf(24, 0.9, Duration::from_millis(50), curve),
        workers: vec![WorkerSpec { weights, ..WorkerSpec::default() }; 4],
        traffic: vec![Stream::poisson(rate)],
        duration: Duration::from_secs(10),
        ..standard(4, 24)
    }
}

fn score(scenario: &Scenario) -> Score {
    let policy = PolicyConfig::Learned { wait_price: 1, waits_when_idle: false, on_late: OnLate::Serve };
    let variant = Variant::new("", move |_| policy.clone());
    Score::of(&play(scenario, |model| variant.configure(model)))
}

#[test]
fn whoever_knows_where_weights_are_answers_more_in_time() {
    println!("| requests a second | on time | p99 | device time of each |");
    let of = |rate| [Told::AtOnce, Told::Never].map(|told| score(&world(rate, told)));
    let gain = |rate| {
        let [told, untold] = of(rate);
        for (who, score) in [("told", &told), ("untold", &untold)] {
            let Tally { p99, .. } = score.total;
            let (on_time, device) = (100.0 * score.total.on_time_share(), 1e3 * score.device_seconds);
            println!("| {rate}, {who} | {on_time:.1} % | {p99:.0?} | {device:.1} ms |");
        }
        let shares = [&told, &untold].map(|score| score.total.on_time_share());
        (shares[0] - shares[1], untold.total.p99.as_secs_f64() / told.total.p99.as_secs_f64())
    };
    // With time to spare batches go where their weights are; without, more of it is left for batches.
    for rate in [200.0, 400.0, 600.0] {
        let (on_time, p99) = gain(rate);
        assert!(on_time > 0.0 && p99 > 1.5, "{rate}");
    }
    for rate in [1_000.0, 1_500.0, 2_000.0] {
        let (on_time, _) = gain(rate);
        assert!(on_time > 0.05, "{rate}");
    }
}

/// Devices that others use as well, with room for 16 of 24 models: of another scheduler's requests each brings in some model
/// ten times a second.
fn shared(rate: f64, told: Told, seed: u64) -> Scenario {
    let mut world = Scenario { seed, ..world(rate, told) };
    for weights in world.workers.iter_mut().filter_map(|worker| worker.weights.as_mut()) {
        (weights.models_max, weights.strangers_every) = (16, Duration::from_millis(100));
    }
    world
}

#[test]
fn whoever_hears_at_once_of_what_others_brought_in_has_less_brought_in() {
    println!("| requests a second | late | p99 | device time of each |");
    for rate in [50.0, 100.0, 200.0, 400.0, 800.0] {
        let mut times = Vec::new();
        for told in [Told::AtOnce, Told::WithPageIns, Told::Never] {
            let scores: Vec<_> = (1..=8).map(|seed| score(&shared(rate, told, seed))).collect();
            let mean = |of: &dyn Fn(&Score) -> f64| scores.iter().map(of).sum::<f64>() / scores.len() as f64;
            let share = 1.0 - mean(&|score| score.total.on_time_share());
            let (p99, device) = (mean(&|score| score.total.p99.as_secs_f64()), mean(&|score| score.device_seconds));
            println!("| {rate}, {told:?} | {:.3} % | {:.1} ms | {:.2} ms |", 1e2 * share, 1e3 * p99, 1e3 * device);
            times.push((device, p99));
        }
        assert!(times.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1 + 1e-4), "{rate}: {times:?}");
    }
}

#[test]
fn devices_with_room_for_all_models_are_as_if_nothing_were_told() {
    let mut roomy = world(400.0, Told::AtOnce);
    for weights in roomy.workers.iter_mut().filter_map(|worker| worker.weights.as_mut()) {
        weights.models_max = 24;
    }
    let mut plain = roomy.clone();
    plain.workers.iter_mut().for_each(|worker| worker.weights = None);
    let [roomy, plain] = [roomy, plain].map(|scenario| score(&scenario).total);
    // But for the first batch of each model on each worker.
    assert!(roomy.on_time.abs_diff(plain.on_time) < 24 * 4, "{roomy:?}, {plain:?}");
}
