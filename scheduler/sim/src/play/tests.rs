use shoal_scheduler::PolicyConfig;

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
fn nobody_stays_open_when_every_worker_is_gone() {
    let absence = Absence { from: Duration::from_secs(1), until: None };
    let outcome = short(|world| world.workers.iter_mut().for_each(|worker| worker.absences = vec![absence]));
    assert!(outcome.requests.iter().all(|record| record.fate != Fate::Open));
    assert!(answered(&outcome) < outcome.requests.len());
}
