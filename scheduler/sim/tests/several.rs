//! Several schedulers that share workers: nearly as good as one that knows all, and nobody is lost with one of them.

use std::time::Duration;

use shoal_scheduler::{BatchCost, Class, ModelConfig, OnLate, PolicyConfig, Timestamp};
use shoal_sim::Rng;
use shoal_sim::bound::capacity;
use shoal_sim::contender::{configure, contenders};
use shoal_sim::play::several::{self, Crew, Talk};
use shoal_sim::play::{Fate, Outcome, play};
use shoal_sim::scenario::{Absence, Curve, Lengths, ModelSpec, Process, Scenario, Stream, Tenants, catalog, standard};
use shoal_sim::score::Score;

const BOTH: [OnLate; 2] = [OnLate::Serve, OnLate::Shed];

/// The learned policy, that knows from the first what batches cost.
fn experienced(on_late: OnLate) -> impl Fn(&ModelSpec) -> ModelConfig {
    move |model| {
        let Curve { base_ns, row_ns, token_ps, token_squared_fs } = model.curve;
        let cost = Some(BatchCost { base_ns, row_ns, token_ps, token_squared_fs });
        let policy = PolicyConfig::Learned { wait_price: 1, waits_when_idle: false, on_late };
        ModelConfig { cost, ..configure(model, policy) }
    }
}

/// The standard world at so many times its capacity, for three seconds.
fn world(process: Process, workers: usize, models: u32, load: f64, link: Duration) -> Scenario {
    let mut scenario = Scenario { duration: Duration::from_secs(3), ..standard(workers, models) };
    scenario.traffic[0].process = process;
    scenario.workers.iter_mut().for_each(|worker| worker.link = link);
    scenario.name = format!("{process:?}, {workers} workers, {models} models, load {load}, link {link:?}");
    let rate = capacity(&scenario) * load;
    scenario.at_rate(rate)
}

fn on_time(outcome: &Outcome) -> f64 {
    Score::of(outcome).total.on_time_share()
}

/// Requests on time under so many schedulers, over those under the one that knows all.
fn share_of_one(scenario: &Scenario, crew: &Crew, on_late: OnLate) -> (f64, Talk) {
    let one = on_time(&play(scenario, experienced(on_late)));
    let (outcome, talk) = several::play(scenario, crew, experienced(on_late));
    assert!(outcome.requests.iter().all(|record| record.fate != Fate::Open), "every request has an end");
    println!("{} {on_late:?}: {:.4} of {one:.4}", scenario.name, on_time(&outcome));
    (on_time(&outcome) / one, talk)
}

/// Worlds at these loads.
fn worlds(loads: &'static [f64], link: Duration) -> impl Iterator<Item = Scenario> {
    [Process::Poisson, Process::mmpp()].into_iter().flat_map(move |process| {
        [(1, 1), (1, 16), (4, 1), (4, 16)].into_iter().flat_map(move |(workers, models)| {
            loads.iter().map(move |load| world(process, workers, models, *load, link))
        })
    })
}

#[test]
fn three_schedulers_keep_on_time_what_one_does() {
    for scenario in worlds(&[0.6, 0.9, 1.5], Duration::ZERO) {
        for on_late in BOTH {
            let (share, _) = share_of_one(&scenario, &Crew::of(3), on_late);
            assert!(share >= 0.95, "{share:.3} of one: {}, {on_late:?}", scenario.name);
        }
    }
}

#[test]
fn a_fifth_of_a_millisecond_of_link_does_not_change_that() {
    for scenario in worlds(&[0.9, 1.5], Duration::from_micros(200)) {
        let (share, _) = share_of_one(&scenario, &Crew::of(3), OnLate::Shed);
        assert!(share >= 0.95, "{share:.3} of one: {}", scenario.name);
    }
}

/// One scheduler that asks for turns decides as one that is given credits: what asking costs is nothing.
#[test]
fn one_scheduler_is_the_special_case() {
    for scenario in worlds(&[0.9], Duration::ZERO) {
        for on_late in BOTH {
            let (share, _) = share_of_one(&scenario, &Crew::of(1), on_late);
            assert!(share >= 0.98, "{share:.3} of one: {}, {on_late:?}", scenario.name);
        }
    }
}

/// Why parts of several schedulers run as one batch: each by itself pays what a batch costs by itself, and has a third of
/// the requests to fill it with.
#[test]
fn batches_of_each_schedulers_own_are_not_enough() {
    let apart = Crew { parts_max: 1, ..Crew::of(3) };
    for (workers, models, load, most) in [(1, 1, 1.5, 0.92), (4, 1, 1.5, 0.85), (1, 16, 0.6, 0.75), (4, 16, 0.6, 0.8)] {
        let scenario = world(Process::Poisson, workers, models, load, Duration::ZERO);
        let (share, _) = share_of_one(&scenario, &apart, OnLate::Shed);
        assert!(share <= most, "{share:.3} of one: {}", scenario.name);
    }
}

/// What is said beside batches stays a few messages a request and worker.
#[test]
fn they_do_not_talk_all_the_time() {
    for scenario in worlds(&[0.9], Duration::ZERO) {
        let (outcome, talk) = several::play(&scenario, &Crew::of(3), experienced(OnLate::Shed));
        let of_requests = |count: u64| count as f64 / outcome.requests.len() as f64 / scenario.workers.len() as f64;
        assert!(of_requests(talk.bids) <= 1.5, "{:.2} bids, {}", of_requests(talk.bids), scenario.name);
        assert!(
            talk.passes * 10 <= talk.turns,
            "{} of {} turns were of no use, {}",
            talk.passes,
            talk.turns,
            scenario.name
        );
    }
}

#[test]
fn the_same_scenario_is_the_same_run() {
    let scenario = world(Process::mmpp(), 4, 16, 0.9, Duration::from_micros(100));
    let run = || several::play(&scenario, &Crew::of(3), experienced(OnLate::Serve));
    let ((one, talk), (other, same)) = (run(), run());
    assert_eq!((one.hash, talk), (other.hash, same));
    let (fewer, _) = several::play(&scenario, &Crew::of(2), experienced(OnLate::Serve));
    assert_ne!(fewer.hash, one.hash);
}

/// Every policy in every scenario: noise, stragglers, loss, poison, memory, links.
#[test]
fn every_request_has_one_end_whoever_schedules() {
    let families = catalog(Duration::from_millis(300), 1);
    let played: Vec<_> = families.iter().filter(|family| family.shown().is_plain()).collect();
    assert!(played.len() + 3 >= families.len(), "only large calls, retries and slow loads are left out");
    for family in played {
        for contender in contenders() {
            let configure = |model: &ModelSpec| contender.variants[0].configure(model);
            let (outcome, _) = several::play(&family.shown(), &Crew::of(3), configure);
            let open = outcome.requests.iter().filter(|record| record.fate == Fate::Open).count();
            assert_eq!(open, 0, "{} in {}", contender.name, family.name());
        }
    }
}

#[test]
fn only_poison_fails_however_many_share_its_batches() {
    let mut scenario = world(Process::Poisson, 2, 2, 0.3, Duration::ZERO);
    scenario.faults.poison_per_mille = 5;
    let configure = |model: &ModelSpec| configure(model, PolicyConfig::Fixed);
    let (outcome, talk) = several::play(&scenario, &Crew::of(3), configure);
    let failed = outcome.requests.iter().filter(|record| matches!(record.fate, Fate::Shed(_)));
    assert!(failed.clone().count() > 3 && talk.parts > outcome.batches, "there is poison, and company");
    assert!(failed.clone().all(|record| record.is_poison), "and nobody else fails for it");
    let poison = outcome.requests.iter().filter(|record| record.is_poison).count();
    assert_eq!(failed.count(), poison);
}

#[test]
fn a_worker_that_is_killed_costs_nobody_an_answer() {
    let mut scenario = world(Process::Poisson, 4, 2, 0.5, Duration::from_micros(100));
    let (from, until) = (Duration::from_millis(1_000), Some(Duration::from_millis(2_000)));
    scenario.workers[1].absences = vec![Absence { from, until }];
    scenario.workers[2].absences = vec![Absence { from, until: None }];
    let (outcome, _) = several::play(&scenario, &Crew::of(3), experienced(OnLate::Serve));
    assert!(outcome.requests.iter().all(|record| matches!(record.fate, Fate::Answered(_))));
}

#[test]
fn a_scheduler_that_is_killed_takes_its_own_requests_along_and_nothing_else() {
    let scenario = world(Process::Poisson, 4, 2, 0.6, Duration::from_micros(100));
    let from = Duration::from_millis(1_000);
    for until in [None, Some(Duration::from_millis(1_500))] {
        let crew = Crew { absences: vec![(1, Absence { from, until })], ..Crew::of(3) };
        let (outcome, _) = several::play(&scenario, &crew, experienced(OnLate::Serve));
        let at = Timestamp::ZERO + from;
        let lost: Vec<_> = outcome.requests.iter().filter(|record| record.fate == Fate::Shed(at)).collect();
        // A third of what was there then: queued or running.
        let is_there = |record: &&_| {
            let record: &shoal_sim::play::Record = record;
            record.at <= at && matches!(record.fate, Fate::Answered(end) if end > at)
        };
        let others = outcome.requests.iter().filter(is_there).count();
        assert!(!lost.is_empty() && lost.len() < others, "{} lost beside {others}", lost.len());
        let failed = outcome.requests.iter().filter(|record| !matches!(record.fate, Fate::Answered(_))).count();
        assert_eq!(failed, lost.len(), "the others go on");
        assert!(on_time(&outcome) > 0.99, "{}", on_time(&outcome));
    }
}

/// What it had goes to the others, who plan with what they see.
#[test]
fn whoever_stays_uses_what_a_killed_scheduler_leaves() {
    let scenario = world(Process::Poisson, 1, 1, 1.5, Duration::ZERO);
    let absence = Absence { from: Duration::from_millis(500), until: None };
    let crew = Crew { absences: vec![(0, absence), (2, absence)], ..Crew::of(3) };
    let (share, _) = share_of_one(&scenario, &crew, OnLate::Shed);
    assert!(share >= 0.95, "{share:.3} of one");
}

/// A small world with everything in it that can go wrong, and a crew for it.
fn draw(seed: u64) -> (Scenario, Crew, PolicyConfig) {
    let mut rng = Rng::new(seed);
    let millis = |rng: &mut Rng, first, last| rng.time(Duration::from_millis(first), Duration::from_millis(last));
    let (workers, models) = (rng.between(1, 3) as usize, rng.between_u32(1, 4));
    let mut scenario = Scenario { seed, duration: Duration::from_millis(150), ..standard(workers, models) };
    let stream = |rng: &mut Rng| Stream {
        class: *rng.pick(&Class::ALL),
        tenants: Tenants { first: 1, count: rng.between_u32(1, 3) },
        lengths: if rng.per_mille(500) { Lengths::Fixed(0) } else { Lengths::Bimodal },
        deadline: rng.per_mille(300).then(|| millis(rng, 5, 200)),
        ..Stream::poisson(1_000.0)
    };
    scenario.traffic = (0..rng.between(1, 3)).map(|_| stream(&mut rng)).collect();
    scenario.faults.poison_per_mille = if rng.per_mille(300) { 10 } else { 0 };
    scenario.faults.memory_max = rng.per_mille(200).then_some(20);
    let absence = |rng: &mut Rng| {
        let from = millis(rng, 0, 150);
        Absence { from, until: rng.per_mille(700).then(|| from + millis(rng, 1, 100)) }
    };
    for worker in &mut scenario.workers {
        worker.slots = rng.between_u32(1, 2);
        worker.link = rng.time(Duration::ZERO, Duration::from_millis(2));
        worker.sigma = if rng.per_mille(300) { 0.3 } else { 0.0 };
        if rng.per_mille(300) {
            worker.absences = vec![absence(&mut rng)];
        }
    }
    let rate = capacity(&scenario) * rng.between(2, 20) as f64 / 10.0;
    let schedulers = rng.between_u32(1, 3);
    let mut crew = Crew { is_checked: true, ..Crew::of(schedulers) };
    crew.parts_max = rng.between_u32(1, 3);
    crew.patience = millis(&mut rng, 1, 10);
    if rng.per_mille(300) {
        crew.absences = vec![(rng.between_u32(0, schedulers - 1), absence(&mut rng))];
    }
    let learned = |wait_price, on_late| PolicyConfig::Learned { wait_price, waits_when_idle: wait_price > 1, on_late };
    let policies = [
        learned(1, OnLate::Serve),
        learned(1, OnLate::Shed),
        learned(16, OnLate::Serve),
        PolicyConfig::Fixed,
        PolicyConfig::Triton { queue_delay_max: Duration::from_millis(5), preferred_rows: vec![] },
    ];
    (scenario.at_rate(rate), crew, rng.pick(&policies).clone())
}

#[test]
fn a_hundred_worlds_of_several_schedulers_keep_every_invariant() {
    let seeds = match std::env::var("SHOAL_SIM_SEED") {
        Ok(seed) => seed.parse().map_or(0..100, |seed| seed..seed + 1),
        Err(_) => 0..100,
    };
    for seed in seeds {
        let (scenario, crew, policy) = draw(seed);
        println!("seed {seed}: {crew:?} {policy:?}");
        let (outcome, _) = several::play(&scenario, &crew, |model| configure(model, policy.clone()));
        assert!(outcome.requests.iter().all(|record| record.fate != Fate::Open), "every request ended, seed {seed}");
        // Who breaks batches is never answered.
        let answered = |record: &&shoal_sim::play::Record| matches!(record.fate, Fate::Answered(_));
        assert!(!outcome.requests.iter().filter(answered).any(|record| record.is_poison), "seed {seed}");
    }
}
