//! What requests waited for, added up.

use std::collections::BTreeMap;

use super::*;
use crate::{Explanation, WaitCause, Waiting, Waits};

fn waits(stage: &Stage) -> Waits {
    stage.core.waits(MODEL, stage.now).expect("a model")
}

fn millis(waits: Waits) -> [u128; 5] {
    WaitCause::ALL.map(|cause| waits.of(cause).as_millis())
}

#[test]
fn a_request_waited_for_a_worker_then_for_the_model_then_for_others() {
    let mut stage = Stage::with_fixed();
    stage.queue([1]);
    let came = waits(&stage);
    stage.pass(3);
    stage.up(WORKER);
    stage.pass(5);
    stage.model(WORKER, MODEL, ModelState::Ready);
    stage.pass(7);
    stage.take(WORKER);
    assert_eq!(millis(waits(&stage).since(came)), [3, 5, 7, 0, 0]);
}

#[test]
fn a_fuller_batch_was_waited_for_as_long_as_the_policy_did() {
    let mut stage = Stage::new(Limits::default(), vec![triton(MODEL)]);
    stage.ready(WORKER);
    stage.queue([1]);
    let came = waits(&stage);
    stage.pass(4);
    assert_eq!(dispatches(&stage.credit(WORKER, 0, AMPLE)), []);
    stage.pass(6);
    stage.queue([2]);
    let second = waits(&stage);
    stage.pass(10);
    let left = waits(&stage);
    assert_eq!(millis(left.since(came)), [0, 0, 4, 0, 16]);
    assert_eq!(millis(left.since(second)), [0, 0, 0, 0, 10]);
}

#[test]
fn what_a_worker_that_went_away_left_waiting_waits_for_the_next() {
    let mut stage = Stage::with_worker();
    let came = waits(&stage);
    stage.pass(1);
    stage.down(WORKER, DownCause::Lost);
    stage.pass(2);
    stage.up(WORKER);
    stage.pass(4);
    stage.model(WORKER, MODEL, ModelState::Failed);
    stage.pass(8);
    assert_eq!(millis(waits(&stage).since(came)), [10, 4, 1, 0, 0]);
}

/// A generator of Marsaglia's, small enough to stand here.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What the request waits for, asked anew.
fn cause(stage: &Stage, request: u64) -> Option<WaitCause> {
    let Explanation::Queued { because, .. } = stage.core.explain(RequestId(request))? else { return None };
    Some(match because {
        Waiting::NoWorker => WaitCause::NoWorker,
        Waiting::ModelLoading => WaitCause::Loading,
        Waiting::NoCredit => WaitCause::WorkersBusy,
        Waiting::SuspectWorker { .. } => WaitCause::SuspectWorker,
        Waiting::Policy { .. } => WaitCause::FullerBatch,
    })
}

#[test]
fn in_random_worlds_the_parts_are_what_was_seen_and_add_up_to_the_whole() {
    let mut met = BTreeMap::<WaitCause, u64>::new();
    for seed in 1..=40 {
        let mut dice = Dice(seed);
        let policy = if seed % 2 == 0 {
            triton(MODEL)
        } else {
            let learned = PolicyConfig::Learned { wait_price: 8, waits_when_idle: true, on_late: crate::OnLate::Serve };
            let cost = crate::BatchCost { base_ns: 4_000_000, row_ns: 500_000, ..Default::default() };
            ModelConfig { policy: learned, cost: Some(cost), ..config(MODEL) }
        };
        let mut stage = Stage::new(Limits::default(), vec![policy]);
        let mut running = Vec::<Dispatch>::new();
        let mut queued = BTreeMap::<u64, (Timestamp, Waits, BTreeMap<WaitCause, Duration>)>::new();
        for id in 1..=400 {
            let step = Duration::from_micros(dice.roll(6_000));
            // Nothing happens meanwhile unless the scheduler asks to be woken.
            let until = stage.now + step;
            loop {
                let wake = stage.core.poll_timeout().map(|(at, _)| at).filter(|at| *at < until);
                let next = wake.unwrap_or(until);
                for (request, (_, _, seen)) in &mut queued {
                    let cause = cause(&stage, *request).expect("it is queued");
                    *seen.entry(cause).or_default() += next.since(stage.now);
                }
                stage.now = next;
                let outputs = match wake {
                    Some(_) => stage.tell(Input::Tick),
                    None => act(&mut stage, &mut dice, id, &mut running, &mut queued),
                };
                for batch in dispatches(&outputs) {
                    for request in &batch.requests {
                        let Some((came, before, seen)) = queued.remove(&request.0) else { continue };
                        let waited = waits(&stage).since(before);
                        assert_eq!(waited.total(), stage.now.since(came), "seed {seed}, request {request}");
                        for cause in WaitCause::ALL {
                            let seen = seen.get(&cause).copied().unwrap_or_default();
                            assert_eq!(waited.of(cause), seen, "seed {seed}, request {request}: {cause:?}");
                            *met.entry(cause).or_default() += u64::from(seen > Duration::ZERO);
                        }
                    }
                    running.push(batch);
                }
                running.retain(|batch| stage.epoch_of(batch.worker) == batch.epoch);
                if wake.is_none() {
                    break;
                }
            }
        }
    }
    assert!(WaitCause::ALL.iter().all(|cause| met.contains_key(cause)), "every cause was met: {met:?}");
}

/// Something happens.
fn act(
    stage: &mut Stage,
    dice: &mut Dice,
    id: u64,
    running: &mut Vec<Dispatch>,
    queued: &mut BTreeMap<u64, (Timestamp, Waits, BTreeMap<WaitCause, Duration>)>,
) -> Vec<Output> {
    let worker = WorkerId(1 + dice.roll(2) as u32);
    let is_up = stage.core.fleet.link(worker).is_some();
    match dice.roll(12) {
        0 if is_up => stage.down(worker, DownCause::Left),
        0 | 1 if !is_up => stage.up(worker),
        1 | 2 if is_up => {
            let mut outputs = stage.model(worker, MODEL, ModelState::Ready);
            outputs.extend(stage.credit(worker, 0, AMPLE));
            outputs
        }
        3..=5 if !running.is_empty() => {
            let batch = running.swap_remove(dice.roll(running.len() as u64) as usize);
            let mut outputs = stage.finish(&batch);
            outputs.extend(stage.credit(batch.worker, 0, AMPLE));
            outputs
        }
        _ => {
            queued.insert(id, (stage.now, waits(stage), BTreeMap::new()));
            stage.submit(call(id, [id]))
        }
    }
}
