//! What the learned policy promises, with one configuration for every scenario, whether it serves what is late or sheds it.

use std::time::Duration;

use shoal_scheduler::{Input, ModelConfig, OnLate, PolicyConfig, ProbeRow, Timestamp};
use shoal_sim::bound::{capacity, fluid, hard, offline};
use shoal_sim::contender::{Variant, contenders};
use shoal_sim::limit::score_at;
use shoal_sim::play::{Fate, play, play_told};
use shoal_sim::scenario::{Absence, Change, Choice, Family, Scenario, Stream, catalog, standard};
use shoal_sim::score::{Score, Tally};

const BOTH: [OnLate; 2] = [OnLate::Serve, OnLate::Shed];

/// The policy as the presets set it, with nothing known beforehand.
fn learned(wait_price: u32, waits_when_idle: bool, on_late: OnLate) -> Variant {
    Variant::new(format!("{on_late:?}"), move |_| PolicyConfig::Learned { wait_price, waits_when_idle, on_late })
}

/// The same on a second day: what batches cost is known from the first.
fn experienced(on_late: OnLate) -> Variant {
    Variant::configured(format!("{on_late:?}"), move |model| ModelConfig {
        cost: Some(model.curve.into()),
        ..balanced(on_late).configure(model)
    })
}

fn balanced(on_late: OnLate) -> Variant {
    learned(1, false, on_late)
}

fn throughput(on_late: OnLate) -> Variant {
    learned(16, true, on_late)
}

fn family(name: &str, duration: Duration) -> Family {
    let family = catalog(duration, 1).into_iter().find(|family| family.name() == name);
    family.unwrap_or_else(|| panic!("no scenario is called {name}"))
}

fn score(scenario: &Scenario, variant: &Variant) -> Score {
    Score::of(&play(scenario, |model| variant.configure(model)))
}

/// Poisson arrivals at so many times a rate, for three seconds.
fn poisson(workers: usize, models: u32, rate: impl Fn(&Scenario) -> f64) -> Scenario {
    let scenario = Scenario { duration: Duration::from_secs(3), ..standard(workers, models) };
    let rate = rate(&scenario);
    scenario.at_rate(rate)
}

#[test]
fn takes_what_the_fluid_law_says_workers_can_take() {
    for on_late in BOTH {
        let mut shares = Vec::new();
        for (workers, models) in [(1, 1), (2, 1), (4, 1), (8, 1), (2, 4), (4, 8), (4, 16), (8, 16), (8, 32)] {
            let scenario = poisson(workers, models, fluid);
            let score = score(&scenario, &experienced(on_late));
            // Of what arrived, which is a little more or less than the rate.
            let share = score.total.on_time_share();
            assert!(share >= 0.94, "{share:.3} with {workers} workers and {models} models, {on_late:?}");
            shares.push(share);
        }
        shares.sort_by(f64::total_cmp);
        let median = shares[shares.len() / 2];
        println!("of the fluid law: {shares:.3?}, median {median:.3}, {on_late:?}");
        assert!(median >= 0.955, "{median:.3} {shares:.3?} {on_late:?}");
    }
}

#[test]
fn does_nearly_as_well_as_who_knows_the_future() {
    for (load, seed) in [(0.6, 1), (0.9, 2), (1.2, 3), (1.5, 4), (2.0, 5), (2.0, 6)] {
        let scenario = Scenario { seed, ..family("poisson-1w-1m", Duration::from_millis(500)).at(load) };
        let outcome = play(&scenario, |model| experienced(OnLate::Shed).configure(model));
        let on_time = Score::of(&outcome).total.on_time as f64;
        let arrivals: Vec<Timestamp> = outcome.requests.iter().map(|record| record.at).collect();
        let (model, worker) = (&scenario.models[0], &scenario.workers[0]);
        let nanos = |rows: usize| model.curve.base_ns + model.curve.row_ns * rows as u64;
        let best = offline(&arrivals, model.objective, worker.budget.rows as usize, nanos) as f64;
        assert!(on_time / best >= 0.93, "{on_time} of {best} at {load}");
    }
}

#[test]
fn overload_costs_it_hardly_anything() {
    for on_late in BOTH {
        for (workers, models, load, least) in [(1, 1, 3.0, 0.95), (4, 1, 3.0, 0.95), (4, 16, 1.5, 0.78)] {
            let scenario = poisson(workers, models, |scenario| capacity(scenario) * load);
            let score = score(&scenario, &experienced(on_late));
            let share = score.goodput / hard(&scenario.clone().at_rate(score.offered));
            println!("of what workers can: {share:.3} at {load}, {workers} workers, {models} models, {on_late:?}");
            assert!(share >= least, "{share:.3} with {workers} workers and {models} models, {on_late:?}");
        }
    }
}

#[test]
fn few_are_late_while_workers_drift_straggle_and_die() {
    let mut scenario = poisson(4, 1, |scenario| capacity(scenario) * 0.7);
    let at = Duration::from_secs;
    scenario.duration = at(60);
    for worker in &mut scenario.workers {
        worker.sigma = 0.05;
    }
    scenario.workers[0].changes = vec![Change { at: at(10), factor: 1.3 }, Change { at: at(30), factor: 1.0 }];
    scenario.workers[1].changes = vec![Change { at: at(35), factor: 5.0 }, Change { at: at(40), factor: 1.0 }];
    scenario.workers[2].absences = vec![Absence { from: at(45), until: Some(at(48)) }];
    for on_late in BOTH {
        let score = score(&scenario, &balanced(on_late));
        assert!(score.total.late_share() <= 0.01, "{:.4} late, {on_late:?}", score.total.late_share());
        assert!(score.total.on_time_share() >= 0.98, "{:.4} on time, {on_late:?}", score.total.on_time_share());
    }
}

/// A call of many requests is shared out among the workers that have nothing to do.
#[test]
fn large_calls_take_a_part_of_the_time_they_take_on_one_worker() {
    let mut scenario = poisson(4, 1, |scenario| capacity(scenario) * 0.05);
    scenario.traffic[0].call = (48, 48);
    for on_late in BOTH {
        let p50 = score(&scenario, &balanced(on_late)).total.p50;
        // 28 ms on one worker, 10 on four.
        assert!(p50 <= Duration::from_millis(11), "{p50:?}, {on_late:?}");
    }
}

/// Three of four workers are away for a second, and whoever is refused comes back.
#[test]
fn those_who_come_back_find_room() {
    let mut family = family("retry-herd", Duration::from_secs(6));
    family.load = 0.7;
    let score = score(&family.shown(), &balanced(OnLate::Shed));
    assert!(score.total.shed_share() <= 0.01, "{:.4} shed for good", score.total.shed_share());
    assert!(score.total.late_share() <= 0.001, "{:.4} late", score.total.late_share());
}

/// What waited while the first worker read the model holds up nobody who comes after it.
#[test]
fn only_those_are_late_who_came_while_nobody_held_the_model() {
    for on_late in BOTH {
        let mut scenario = poisson(2, 2, |scenario| capacity(scenario) * 0.5);
        scenario.models.iter_mut().for_each(|model| model.load = Duration::from_millis(400));
        let outcome = play(&scenario, |model| balanced(on_late).configure(model));
        let loaded = Timestamp::from_millis(400 + 50);
        let after = Tally::of(outcome.requests.iter().filter(|request| request.at > loaded));
        assert!(after.on_time_share() >= 0.99, "{:.4} on time, {on_late:?}", after.on_time_share());
    }
}

/// A worker that hangs for two seconds is found out in the time of two batches, and what it had is run again.
#[test]
fn nobody_waits_for_a_worker_that_hangs() {
    let mut family = family("hang", Duration::from_secs(12));
    family.load = 0.5;
    for on_late in BOTH {
        let outcome = play(&family.shown(), |model| balanced(on_late).configure(model));
        let score = Score::of(&outcome);
        assert!(score.total.on_time_share() >= 0.999, "{:.4} on time, {on_late:?}", score.total.on_time_share());
        let answered = |fate| if let Fate::Answered(at) = fate { Some(at) } else { None };
        let took = outcome.requests.iter().filter_map(|request| Some(answered(request.fate)?.since(request.at)));
        let longest = took.max().expect("answers");
        assert!(longest <= Duration::from_millis(100), "{longest:?}, {on_late:?}");
        assert!(outcome.hedges > 0 && outcome.hedges * 50 <= outcome.batches, "{} hedges", outcome.hedges);
    }
}

/// All workers stand still for two seconds, as when the machine has other work, and are then as quick as before. Who sheds
/// everybody as hopeless must hear of it.
#[test]
fn is_itself_again_after_a_stall_however_hopeless_it_looked() {
    for (workers, on_late) in [1, 4].into_iter().flat_map(|workers| BOTH.map(|on_late| (workers, on_late))) {
        let mut scenario = Scenario { duration: Duration::from_secs(20), ..standard(workers, 1) };
        let change = |at, factor| Change { at: Duration::from_secs(at), factor };
        scenario.workers.iter_mut().for_each(|worker| worker.changes = vec![change(3, 40.0), change(5, 1.0)]);
        let rate = capacity(&scenario) * 0.3;
        let outcome = play(&scenario.at_rate(rate), |model| balanced(on_late).configure(model));
        let after = outcome.requests.iter().filter(|record| record.at >= Timestamp::from_millis(15_000));
        let tally = Tally::of(after);
        assert!(tally.on_time_share() > 0.99, "{workers} workers, {on_late:?}: {tally:?}");
    }
}

#[test]
fn who_stays_within_his_share_loses_nothing_to_a_flood() {
    let family = family("tenant-flood", Duration::from_secs(4));
    for on_late in BOTH {
        let score = score_at(&family, family.load, &balanced(on_late));
        let share = score.total.asked / score.tenants.len() as u64;
        for (tenant, tally) in score.tenants.iter().filter(|(_, tally)| tally.asked <= share) {
            assert!(tally.on_time_share() >= 0.99, "{:.4} of tenant {tenant}, {on_late:?}", tally.on_time_share());
        }
    }
}

/// Of five models one asks for three times everything, and four for a third of their share each.
#[test]
fn a_flood_for_one_model_leaves_the_others_most_of_theirs() {
    let mut scenario = Scenario { duration: Duration::from_secs(4), ..standard(4, 5) };
    let rate = capacity(&scenario);
    let stream = |model: usize, part: f64| Stream {
        models: Choice::One(scenario.models[model].id),
        ..Stream::poisson(rate * part)
    };
    scenario.traffic = (0..5).map(|model| stream(model, if model == 0 { 3.0 } else { 0.08 })).collect();
    for on_late in BOTH {
        let outcome = play(&scenario, |model| experienced(on_late).configure(model));
        for model in &scenario.models[1..] {
            let of_model = outcome.requests.iter().filter(|record| record.model == model.id);
            let on_time =
                of_model.clone().filter(|record| matches!(record.fate, Fate::Answered(at) if at <= record.due));
            let share = on_time.count() as f64 / of_model.count() as f64;
            assert!(share >= 0.83, "{share:.3} of model {}, {on_late:?}", model.id);
        }
    }
}

/// A number from before may be of another machine.
#[test]
fn a_wrong_number_from_before_is_soon_forgotten() {
    const LOADS: [f64; 4] = [0.3, 0.7, 1.0, 3.0];
    for (name, load) in
        ["wrong-prior-low", "wrong-prior-high"].into_iter().flat_map(|name| LOADS.map(|load| (name, load)))
    {
        let scenario = family(name, Duration::from_secs(4)).at(load);
        let mut unknown = scenario.clone();
        unknown.models[0].prior = None;
        for on_late in BOTH {
            let share = |scenario: &Scenario| score(scenario, &balanced(on_late)).total.on_time_share();
            let (told, untold) = (share(&scenario), share(&unknown));
            assert!(told >= untold - 0.002, "{told:.4}, untold {untold:.4}, {name} at {load}, {on_late:?}");
        }
    }
}

/// Even one that says that nobody could ever be on time.
#[test]
fn a_number_from_before_that_is_beyond_all_objectives_refuses_nobody() {
    let mut scenario = family("wrong-prior-high", Duration::from_secs(4)).shown();
    scenario.models[0].prior = Some(100.0);
    for on_late in BOTH {
        let score = score(&scenario, &balanced(on_late));
        assert!(score.total.on_time_share() >= 0.99, "{:.4} on time, {on_late:?}", score.total.on_time_share());
    }
}

/// Probes run where nobody waits, and whoever comes meanwhile has time left.
#[test]
fn probes_cost_hardly_anybody_his_objective() {
    for name in ["idle-4w-1m", "poisson-1w-1m", "poisson-4w-16m", "bimodal", "far-workers", "out-of-memory"] {
        let family = family(name, Duration::from_secs(4));
        let scenario = family.at(family.load.min(0.6));
        let rows = scenario.models[0].curve.token_ps == 0;
        let row =
            ProbeRow { tokens_max: if rows { 0 } else { 512 }, row_bytes: 0, token_bytes: 4, time: Duration::ZERO };
        let probes = || scenario.models.iter().map(|model| Input::Calibrate { model: model.id, row });
        for on_late in BOTH {
            let variant = balanced(on_late);
            let share = |inputs: Vec<Input>| {
                Score::of(&play_told(&scenario, |model| variant.configure(model), inputs)).total.on_time_share()
            };
            let (with, without) = (share(probes().collect()), share(Vec::new()));
            assert!(with >= without - 0.002, "{with:.4} with probes, {without:.4} without, {name}, {on_late:?}");
        }
    }
}

#[test]
fn a_lone_request_does_not_wait_and_neither_do_a_few() {
    let never = learned(0, false, OnLate::Serve);
    for name in ["idle-4w-1m", "poisson-1w-1m", "bimodal"] {
        let family = family(name, Duration::from_secs(5));
        let median = |variant: &Variant| score_at(&family, 0.1, variant).total.p50.as_secs_f64();
        let ratio = median(&balanced(OnLate::Serve)) / median(&never);
        assert!(ratio <= 1.1, "{ratio:.2} of never waiting, {name}");
    }
}

#[test]
fn throughput_saves_two_fifths_of_the_devices_time_at_little_load() {
    let family = family("idle-4w-1m", Duration::from_secs(5));
    for on_late in BOTH {
        for load in [0.1, 0.2, 0.3] {
            let device = |variant: &Variant| score_at(&family, load, variant).device_seconds;
            let ratio = device(&throughput(on_late)) / device(&learned(0, false, on_late));
            assert!(ratio <= 0.6, "{ratio:.2} at {load}, {on_late:?}");
        }
    }
}

/// Every setting of every rival, in every scenario, at the load that the report shows.
#[test]
fn is_nowhere_far_behind_anybody() {
    let rivals: Vec<_> = contenders().into_iter().filter(|rival| !rival.name.starts_with("learned")).collect();
    for family in catalog(Duration::from_secs(2), 1) {
        let share = |variant: &Variant| score_at(&family, family.load, variant).total.on_time_share();
        let best = rivals.iter().flat_map(|rival| &rival.variants).map(|variant| (share(variant), variant));
        let (best, who) = best.max_by(|one, other| one.0.total_cmp(&other.0)).expect("there are rivals");
        // Who is refused and comes back is on time in the end; who is let wait instead is late.
        let is_retried = family.shown().traffic.iter().any(|stream| stream.retries > 0);
        for on_late in BOTH.into_iter().filter(|on_late| !is_retried || *on_late == OnLate::Shed) {
            let own = share(&balanced(on_late));
            assert!(own >= best - 0.02, "{own:.4} in {}, and {best:.4} with {who:?}, {on_late:?}", family.name());
        }
    }
}

/// Whoever serves in order and gives nobody up is far behind in bursts.
#[test]
fn answers_far_more_in_bursts_than_who_gives_nobody_up() {
    for name in ["mmpp", "code-like"] {
        let family = family(name, Duration::from_secs(4));
        let share = |variant: &Variant| score_at(&family, family.load, variant).total.on_time_share();
        let eager =
            ["fixed", "triton", "clipper"].map(|name| contenders().into_iter().find(|rival| rival.name == name));
        let best = eager.iter().flatten().flat_map(|rival| &rival.variants).map(share).fold(0.0, f64::max);
        for on_late in BOTH {
            let own = share(&balanced(on_late));
            assert!(own >= 1.3 * best, "{own:.3} and {best:.3} in {name}, {on_late:?}");
        }
    }
}

/// For three seconds workers are so slow that not even one row is on time. That is forgotten soon after.
#[test]
fn who_comes_after_a_stall_is_not_refused_for_it() {
    let at = Duration::from_secs;
    for (workers, sigma) in [(1, 0.0), (1, 0.4), (4, 0.4)] {
        let mut scenario = poisson(workers, 1, |scenario| capacity(scenario) * 0.3);
        scenario.duration = at(30);
        for worker in &mut scenario.workers {
            worker.sigma = sigma;
            worker.changes = vec![Change { at: at(5), factor: 15.0 }, Change { at: at(8), factor: 1.0 }];
        }
        for on_late in BOTH {
            let outcome = play(&scenario, |model| balanced(on_late).configure(model));
            let after = Timestamp::ZERO + at(9);
            let after = Tally::of(outcome.requests.iter().filter(|request| request.at >= after));
            let share = after.on_time_share();
            assert!(share >= 0.98, "{share:.4} on time, {workers} workers, {sigma}, {on_late:?}");
        }
    }
}

/// One worker of four is so slow for three seconds that it is no use to anybody, while all have more to do than they can.
#[test]
fn a_worker_that_was_slow_is_used_again_under_overload() {
    let at = Duration::from_secs;
    for load in [0.9, 1.3] {
        let mut scenario = poisson(4, 1, |scenario| capacity(scenario) * load);
        scenario.duration = at(20);
        let stall = vec![Change { at: at(5), factor: 15.0 }, Change { at: at(8), factor: 1.0 }];
        scenario.workers[3].changes = stall;
        for on_late in BOTH {
            let outcome = play(&scenario, |model| balanced(on_late).configure(model));
            let after = Timestamp::ZERO + at(9);
            let after = Tally::of(outcome.requests.iter().filter(|request| request.at >= after));
            let share = after.on_time_share() * f64::max(load, 1.0);
            assert!(share >= 0.95, "{share:.4} of what can be, at {load}, {on_late:?}");
        }
    }
}
