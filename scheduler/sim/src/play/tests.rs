use shoal_scheduler::{OnLate, PolicyConfig, ProbeRow};

use super::*;
use crate::contender::configure;
use crate::scenario::{Absence, Stream, standard};

fn fixed(model: &ModelSpec) -> ModelConfig {
    configure(model, PolicyConfig::Fixed)
}

fn short(change: impl FnOnce(&mut Scenario)) -> Outcome {
    let mut scenario = standard(2, 2).at_rate(1_000.0);
    scenario.duration = Duration::from_secs(2);
    change(&mut scenario);
    play(&scenario, fixed)
}

fn answered(outcome: &Outcome) -> usize {
    outcome.requests.iter().filter(|record| matches!(record.fate, Fate::Answered(_))).count()
}

#[test]
fn a_lone_request_takes_what_its_batch_takes() {
    let outcome = short(|world| {
        world.traffic = vec![Stream { process: crate::scenario::Process::Constant, ..Stream::poisson(10.0) }];
    });
    assert_eq!((outcome.batches, outcome.rows, outcome.requests.len()), (19, 19, 19));
    let took = |record: &Record| match record.fate {
        Fate::Answered(at) => at.since(record.at),
        Fate::Open | Fate::Shed(_) => Duration::MAX,
    };
    assert!(outcome.requests.iter().all(|record| took(record) == Duration::from_micros(4_500)));
    assert_eq!(outcome.busy, Duration::from_micros(4_500 * 19));
}

#[test]
fn everybody_is_answered_whatever_befalls_workers() {
    let (from, until) = (Duration::from_millis(500), Some(Duration::from_millis(900)));
    let outcome = short(|world| world.workers[0].absences = vec![Absence { from, until }]);
    assert_eq!(answered(&outcome), outcome.requests.len());
    let outcome = short(|world| world.faults.memory_max = Some(8));
    assert_eq!(answered(&outcome), outcome.requests.len());
    assert!(outcome.rows > outcome.requests.len() as u64, "some batches were tried again");
    let outcome = short(|world| {
        world.workers.iter_mut().for_each(|worker| (worker.slots, worker.link) = (2, Duration::from_millis(1)));
    });
    assert_eq!(answered(&outcome), outcome.requests.len());
}

#[test]
fn only_poison_fails() {
    let outcome = short(|world| world.faults.poison_per_mille = 5);
    let failed = outcome.requests.iter().filter(|record| matches!(record.fate, Fate::Shed(_)));
    assert!(failed.clone().count() > 3);
    assert!(failed.clone().all(|record| record.is_poison));
    assert_eq!(answered(&outcome) + failed.count(), outcome.requests.len());
}

#[test]
fn probes_find_out_what_a_batch_costs_before_anybody_asks() {
    let mut scenario = standard(1, 1).at_rate(1.0);
    scenario.duration = Duration::from_secs(3);
    scenario.traffic[0].process = crate::scenario::Process::Constant;
    let learned = PolicyConfig::Learned { wait_price: 1, waits_when_idle: false, on_late: OnLate::Serve };
    let row = ProbeRow { tokens_max: 0, row_bytes: 0, token_bytes: 0, time: Duration::ZERO };
    let probes = Input::Calibrate { model: scenario.models[0].id, row };
    let outcome = play_told(&scenario, |model| configure(model, learned.clone()), [probes]);
    // Three each of 1, 4, 16 and 64 rows, of which the last takes 36 ms: longer than half of the objective.
    let probes: u64 = [1, 4, 16].into_iter().map(|rows| 3 * (4_000 + 500 * rows)).sum();
    let asked = outcome.requests.len() as u64 * 4_500;
    assert_eq!(outcome.busy, Duration::from_micros(probes + asked));
    assert_eq!(answered(&outcome), outcome.requests.len());
}

#[test]
fn nobody_stays_open_when_every_worker_is_gone() {
    let absence = Absence { from: Duration::from_secs(1), until: None };
    let outcome = short(|world| world.workers.iter_mut().for_each(|worker| worker.absences = vec![absence]));
    assert!(outcome.requests.iter().all(|record| record.fate != Fate::Open));
    assert!(answered(&outcome) < outcome.requests.len());
}
