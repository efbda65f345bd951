//! Workers that were slow and are not trusted.

use super::*;
use crate::{BatchCost, Explanation, OnLate, Waiting};

/// Two workers that were both found to take 5 ms for a request. The objective is 100 ms.
fn stage() -> Stage {
    let learned = ModelConfig {
        policy: PolicyConfig::Learned { wait_price: 0, waits_when_idle: false, on_late: OnLate::Serve },
        cost: Some(BatchCost { base_ns: 4_000_000, row_ns: 500_000, ..BatchCost::default() }),
        ..config(MODEL)
    };
    let mut stage = Stage::new(Limits { hedges_per_mille: 0, ..Limits::default() }, vec![learned]);
    stage.ready(WORKER);
    stage.ready(OTHER_WORKER);
    for id in 0..20 {
        run(&mut stage, if id % 2 == 0 { WORKER } else { OTHER_WORKER }, 1_000 + id, 5);
    }
    stage
}

/// One worker takes a request for so long.
fn run(stage: &mut Stage, worker: WorkerId, request: u64, millis: u64) {
    stage.queue([request]);
    let batch = stage.take(worker);
    stage.pass(millis);
    stage.finish(&batch);
}

#[test]
fn a_worker_is_suspect_while_a_batch_is_slow_and_trusted_when_it_was_not_far_off() {
    let mut stage = stage();
    stage.queue([1]);
    let batch = stage.take(WORKER);
    stage.pass(6);
    assert_eq!(stage.core.counts().suspects, 0);
    stage.pass(6);
    assert_eq!(stage.core.counts().suspects, 1);
    stage.finish(&batch);
    assert_eq!(stage.core.counts().suspects, 0, "12 ms are less than three times 5");
}

#[test]
fn one_that_hung_is_tried_at_once_and_trusted_again() {
    let mut stage = stage();
    run(&mut stage, WORKER, 1, 400);
    assert_eq!(stage.core.counts().suspects, 1);
    run(&mut stage, WORKER, 2, 5);
    assert_eq!(stage.core.counts().suspects, 0);
}

#[test]
fn nothing_is_put_behind_a_slow_batch() {
    let mut stage = stage();
    stage.queue([1]);
    stage.take(WORKER);
    stage.credit(WORKER, 1, AMPLE);
    assert_eq!(dispatches(&stage.submit(call(2, [2]))).len(), 1, "as long as it is not slow");
    stage.credit(WORKER, 2, AMPLE);
    stage.pass(30);
    stage.queue([3]);
    assert_eq!(stage.core.counts().queued(), 1);
    stage.pass(99);
    assert_eq!(stage.core.counts().queued(), 1, "not even when it is late");
    assert_eq!(ids(&stage.take(OTHER_WORKER)), [3]);
}

#[test]
fn a_suspect_waits_for_its_trial_while_another_can_be_on_time() {
    let mut stage = stage();
    run(&mut stage, WORKER, 1, 60);
    run(&mut stage, WORKER, 2, 60);
    stage.queue([3]);
    let other = stage.take(OTHER_WORKER);
    stage.credit(WORKER, 0, AMPLE);
    stage.queue([4]);
    let why = stage.core.explain(RequestId(4));
    let Some(Explanation::Queued { because: Waiting::SuspectWorker { until }, .. }) = why else { panic!("{why:?}") };
    assert!((ms(92)..ms(96)).contains(&until.since(stage.now)), "{until:?}");
    stage.finish(&other);
    assert_eq!(ids(&stage.take(OTHER_WORKER)), [4]);
}

#[test]
fn a_suspect_takes_what_waits_when_the_others_are_slow_too() {
    let mut stage = stage();
    run(&mut stage, WORKER, 1, 60);
    run(&mut stage, WORKER, 2, 60);
    stage.queue([3]);
    stage.take(OTHER_WORKER);
    stage.credit(WORKER, 0, AMPLE);
    stage.queue([4]);
    assert_eq!(stage.pass(5), []);
    let batch = only_dispatch(stage.pass(10));
    assert_eq!((batch.worker, ids(&batch)), (WORKER, vec![4]));
}

#[test]
fn a_suspect_is_tried_four_times_a_second() {
    let mut stage = stage();
    run(&mut stage, WORKER, 1, 60);
    run(&mut stage, WORKER, 2, 60);
    stage.pass(250);
    run(&mut stage, WORKER, 3, 5);
    assert_eq!(stage.core.counts().suspects, 0);
}

#[test]
fn the_only_worker_is_never_passed_over() {
    let mut stage = stage();
    stage.down(OTHER_WORKER, DownCause::Lost);
    for id in 1..=5 {
        run(&mut stage, WORKER, id, 60);
    }
    stage.queue([10]);
    stage.take(WORKER);
    stage.pass(100);
    stage.credit(WORKER, 1, AMPLE);
    assert_eq!(dispatches(&stage.submit(call(11, [11]))).len(), 1, "behind the slow one, for want of another");
}

#[test]
fn a_worker_that_comes_back_is_trusted() {
    let mut stage = stage();
    run(&mut stage, WORKER, 1, 400);
    stage.ready(WORKER);
    assert_eq!(stage.core.counts().suspects, 0);
}

#[test]
fn one_that_is_slow_for_good_is_trusted_when_it_is_known_how_slow() {
    let mut stage = stage();
    for id in 1..=20 {
        stage.pass(300);
        run(&mut stage, WORKER, id, 20);
    }
    assert_eq!(stage.core.counts().suspects, 0);
}

#[test]
fn a_part_waits_for_a_worker_that_is_trusted() {
    let mut stage = stage();
    run(&mut stage, WORKER, 1, 60);
    run(&mut stage, WORKER, 2, 60);
    stage.queue([3, 4]);
    let broken = stage.take(OTHER_WORKER);
    stage.queue([5]);
    let behind = stage.take(OTHER_WORKER);
    stage.credit(OTHER_WORKER, 1, AMPLE);
    stage.fail(&broken, BatchFailure::Item);
    // It is idle, and what it was given would not be hedged.
    assert_eq!(stage.credit(WORKER, 0, AMPLE), []);
    // The other part goes to it, since nobody else has a credit any more.
    let next = stage.finish(&behind);
    let sent: Vec<_> = dispatches(&next).iter().map(|dispatch| (dispatch.worker, ids(dispatch))).collect();
    assert_eq!(sent, [(OTHER_WORKER, vec![3]), (WORKER, vec![4])]);
}
