//! The end.

use super::*;
use crate::{Reject, Wake};

fn drain(stage: &mut Stage, millis: u64) -> Vec<Output> {
    stage.tell(Input::Drain { deadline: stage.now + ms(millis) })
}

#[test]
fn ends_at_once_when_there_is_nothing_to_wait_for() {
    let mut stage = Stage::with_worker();
    assert_eq!(drain(&mut stage, 1_000), [Output::Drained]);
    assert_eq!(drain(&mut stage, 1_000), [], "once");
    assert_eq!(stage.core.poll_timeout(), None);
}

#[test]
fn takes_nothing_new_and_finishes_what_is_there() {
    let mut stage = Stage::with_worker();
    stage.queue([1]);
    let running = stage.take(WORKER);
    stage.queue([2]);
    assert_eq!(drain(&mut stage, 1_000), []);
    assert_eq!(stage.submit(call(3, [3])), [Output::Reject { group: GroupId(3), why: Reject::Draining }]);
    assert_eq!(stage.finish(&running), [complete(1)]);
    let last = stage.take(WORKER);
    assert_eq!(stage.finish(&last), [complete(2), Output::Drained]);
}

#[test]
fn fails_what_is_left_at_the_deadline() {
    let mut stage = Stage::with_worker();
    stage.queue([1]);
    let running = stage.take(WORKER);
    stage.queue([2]);
    drain(&mut stage, 1_000);
    assert_eq!(stage.core.poll_timeout(), Some((stage.now + ms(1_000), Wake::DrainDeadline)));
    let left =
        [failed(1, Failure::Drained), failed(2, Failure::Drained), cancel_running(&running, &[1]), Output::Drained];
    assert_eq!(stage.pass(1_000), left);
}

#[test]
fn brings_the_end_forward_but_never_back() {
    let mut stage = Stage::with_fixed();
    stage.queue([1]);
    drain(&mut stage, 1_000);
    drain(&mut stage, 100);
    drain(&mut stage, 5_000);
    assert_eq!(stage.pass(100), [failed(1, Failure::Drained), Output::Drained]);
}

#[test]
fn does_not_wait_for_fuller_batches_that_cannot_come() {
    let mut stage = Stage::new(Limits::default(), vec![triton(MODEL)]);
    stage.ready(WORKER);
    stage.credit(WORKER, 0, AMPLE);
    stage.queue([1]);
    let batch = only_dispatch(drain(&mut stage, 1_000));
    assert_eq!((ids(&batch), batch.close), (vec![1], CloseReason::Drained));
}
