//! A call fails as a whole: with the first of its requests.

use super::*;

fn limits(attempts_max: u16) -> Limits {
    Limits { attempts_max: NonZeroU16::new(attempts_max).unwrap(), ..Limits::default() }
}

#[test]
fn what_is_left_of_a_call_leaves_the_queue_with_the_first_that_fails() {
    let mut stage = Stage::with_worker();
    stage.submit(call(1, 1..=5));
    let batch = only_dispatch(stage.credit(WORKER, 0, Budget { rows: 2, ..AMPLE }));
    assert_eq!(stage.core.counts().queued(), 3);
    let outputs = stage.item(&batch, 1, ItemOutcome::Failed);
    assert_eq!(outputs, [failed(1, Failure::Item), cancel_running(&batch, &[2])]);
    assert_eq!((stage.core.counts().queued(), stage.core.counts().running), (0, 0));
    let dropped = stage.dropped();
    assert_eq!(stage.item(&batch, 2, ItemOutcome::Ok), [], "nobody waits for it");
    assert_eq!(stage.dropped(), dropped + 1);
}

#[test]
fn other_calls_are_not_touched() {
    let mut stage = Stage::with_worker();
    stage.submit(call(1, [1, 2]));
    stage.queue([3]);
    let batch = stage.take(WORKER);
    stage.item(&batch, 1, ItemOutcome::Failed);
    assert_eq!(stage.item(&batch, 3, ItemOutcome::Ok), [complete(3)]);
}

#[test]
fn a_call_that_expires_in_the_queue_and_on_a_worker_fails_once() {
    let mut stage = Stage::with_worker();
    let deadline = Some(stage.now + ms(30));
    stage.submit(Group { deadline, ..call(1, 1..=4) });
    let batch = only_dispatch(stage.credit(WORKER, 0, Budget { rows: 2, ..AMPLE }));
    let outputs = stage.pass(30);
    let failures = outputs.iter().filter(|output| matches!(output, Output::Fail { .. })).count();
    assert_eq!(failures, 1, "{outputs:?}");
    let told = |output: &Output| match output {
        Output::CancelRunning { requests, .. } => requests.clone(),
        _ => Vec::new(),
    };
    let mut told: Vec<_> = outputs.iter().flat_map(told).map(|id| id.0).collect();
    told.sort_unstable();
    assert_eq!(told, ids(&batch));
}

#[test]
fn a_call_whose_worker_is_lost_too_often_fails_once_in_whatever_batches_it_was() {
    let mut stage = Stage::new(limits(1), vec![config(MODEL)]);
    stage.ready(WORKER);
    stage.submit(call(1, 1..=4));
    for slot in 0..2 {
        only_dispatch(stage.credit(WORKER, slot, Budget { rows: 2, ..AMPLE }));
    }
    let lost = Failure::WorkerLost { attempts: Attempt(1) };
    assert_eq!(stage.down(WORKER, DownCause::Lost), [failed(1, lost)]);
    assert_eq!(stage.core.counts().queued(), 0);
}

#[test]
fn of_a_convicted_request_the_call_goes_and_the_mates_are_answered() {
    let mut stage = Stage::with_worker();
    stage.submit(call(1, [1, 2]));
    stage.queue([3, 4]);
    let batch = stage.take(WORKER);
    stage.fail(&batch, BatchFailure::Item);
    let half = stage.take(WORKER);
    assert_eq!(ids(&half), [1, 2]);
    stage.fail(&half, BatchFailure::Item);
    let alone = stage.take(WORKER);
    assert_eq!(ids(&alone), [1]);
    assert_eq!(stage.fail(&alone, BatchFailure::Item), [failed(1, Failure::Poison)]);
    let mates = stage.take(WORKER);
    assert_eq!(ids(&mates), [3, 4], "nothing is left of its call");
}

#[test]
fn a_drain_that_runs_out_fails_each_call_once() {
    let mut stage = Stage::with_fixed();
    stage.submit(call(1, 1..=3));
    stage.submit(call(4, 4..=5));
    let deadline = stage.now + ms(5);
    stage.tell(Input::Drain { deadline });
    assert_eq!(stage.pass(5), [failed(1, Failure::Drained), failed(4, Failure::Drained), Output::Drained]);
}

#[test]
fn a_model_that_is_removed_fails_each_of_its_calls_once() {
    let mut stage = Stage::with_fixed();
    stage.submit(call(1, 1..=3));
    assert_eq!(stage.tell(Input::ConfigChanged(Vec::new())), [failed(1, Failure::ModelRemoved)]);
}
