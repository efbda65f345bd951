//! Batches that are slow, and are run a second time.

use super::*;
use crate::{BatchCost, OnLate};

/// Batches are known to take 4 ms and half a millisecond for each row. Until some have run, half as much again is reckoned
/// with, and half of that again is slow: 12.4 ms of three rows.
fn learned() -> ModelConfig {
    ModelConfig {
        policy: PolicyConfig::Learned { wait_price: 0, waits_when_idle: false, on_late: OnLate::Serve },
        cost: Some(BatchCost { base_ns: 4_000_000, row_ns: 500_000, ..BatchCost::default() }),
        ..config(MODEL)
    }
}

/// Two workers without credits, and as many hedges as batches.
fn stage() -> Stage {
    let limits = Limits { hedges_per_mille: 1_000, ..Limits::default() };
    let mut stage = Stage::new(limits, vec![learned()]);
    stage.ready(WORKER);
    stage.ready(OTHER_WORKER);
    stage
}

/// Three requests run on one worker, slowly, and the other one is idle.
fn with_hedge(stage: &mut Stage) -> (Dispatch, Dispatch) {
    stage.queue([1, 2, 3]);
    let first = stage.take(WORKER);
    assert_eq!(stage.credit(OTHER_WORKER, 0, AMPLE), []);
    let hedge = only_dispatch(stage.pass(13));
    (first, hedge)
}

#[test]
fn runs_what_is_left_of_a_slow_batch_on_an_idle_worker() {
    let mut stage = stage();
    stage.queue([1, 2, 3]);
    let first = stage.take(WORKER);
    stage.credit(OTHER_WORKER, 0, AMPLE);
    stage.item(&first, 2, ItemOutcome::Ok);
    assert_eq!(stage.pass(12), []);
    let hedge = only_dispatch(stage.pass(1));
    assert_eq!((hedge.worker, ids(&hedge)), (OTHER_WORKER, vec![1, 3]));
    assert_eq!((hedge.close, hedge.attempt), (CloseReason::Hedged, Attempt(2)));
    assert_eq!((stage.core.counts().running, stage.core.counts().hedged), (2, 1));
}

#[test]
fn the_first_result_counts_and_the_other_worker_is_told() {
    let mut stage = stage();
    let (first, hedge) = with_hedge(&mut stage);
    assert_eq!(stage.item(&hedge, 1, ItemOutcome::Ok), [complete(1), cancel_running(&first, &[1])]);
    assert_eq!(stage.item(&first, 2, ItemOutcome::Ok), [complete(2), cancel_running(&hedge, &[2])]);
    let dropped = stage.dropped();
    assert_eq!(stage.item(&first, 1, ItemOutcome::Ok), []);
    assert_eq!(stage.item(&hedge, 2, ItemOutcome::Failed), []);
    assert_eq!(stage.dropped(), dropped + 2);
    assert_eq!(stage.item(&hedge, 3, ItemOutcome::Ok), [complete(3), cancel_running(&first, &[3])]);
    assert_eq!((stage.end(&hedge), stage.end(&first)), (vec![], vec![]));
    assert_eq!((stage.core.counts().running, stage.core.counts().batches), (0, 0));
}

#[test]
fn the_first_outcome_counts_when_it_is_a_failure() {
    let mut stage = stage();
    let (first, hedge) = with_hedge(&mut stage);
    let outputs = stage.item(&hedge, 1, ItemOutcome::Failed);
    assert_eq!(outputs, [failed(1, Failure::Item), cancel_running(&first, &[1])]);
    assert_eq!(stage.item(&first, 1, ItemOutcome::Ok), []);
}

#[test]
fn waits_for_a_worker_to_be_idle() {
    let mut stage = stage();
    stage.queue([1]);
    let first = stage.take(WORKER);
    stage.queue([2]);
    let busy = stage.take(OTHER_WORKER);
    assert_eq!(dispatches(&stage.pass(13)), []);
    stage.finish(&busy);
    let hedge = stage.take(OTHER_WORKER);
    assert_eq!((ids(&hedge), hedge.close), (vec![1], CloseReason::Hedged));
    stage.finish(&first);
}

#[test]
fn what_waits_goes_before_what_runs_a_second_time() {
    let mut stage = stage();
    stage.queue([1]);
    stage.take(WORKER);
    stage.pass(50);
    stage.queue([2]);
    assert_eq!(ids(&stage.take(OTHER_WORKER)), [2]);
}

#[test]
fn fifty_batches_pay_for_one_that_is_run_twice() {
    for batches in [49, 50] {
        let mut stage = Stage::new(Limits::default(), vec![learned()]);
        stage.ready(WORKER);
        stage.ready(OTHER_WORKER);
        for id in 1..batches {
            stage.queue([id]);
            let batch = stage.take(WORKER);
            stage.pass(5);
            stage.finish(&batch);
        }
        stage.queue([batches]);
        stage.take(WORKER);
        stage.credit(OTHER_WORKER, 0, AMPLE);
        assert_eq!(dispatches(&stage.pass(30)).len(), usize::from(batches == 50), "{batches}");
    }
}

#[test]
fn what_may_have_broken_a_batch_is_not_run_beside_itself() {
    let mut stage = stage();
    stage.queue([1, 2]);
    let batch = stage.take(WORKER);
    stage.fail(&batch, BatchFailure::Item);
    let part = stage.take(WORKER);
    assert_eq!(part.close, CloseReason::Isolated);
    let other_part = stage.take(OTHER_WORKER);
    stage.finish(&other_part);
    stage.credit(OTHER_WORKER, 0, AMPLE);
    assert_eq!(dispatches(&stage.pass(1_000)), []);
}

#[test]
fn no_request_is_run_beside_itself_twice() {
    let mut stage = stage();
    let (_, hedge) = with_hedge(&mut stage);
    stage.down(WORKER, DownCause::Lost);
    assert_eq!(stage.fail(&hedge, BatchFailure::Device), []);
    let again = stage.take(OTHER_WORKER);
    assert_eq!((ids(&again), again.attempt), (vec![1, 2, 3], Attempt(3)));
    stage.ready(WORKER);
    stage.credit(WORKER, 0, AMPLE);
    assert_eq!(dispatches(&stage.pass(1_000)), []);
}

#[test]
fn the_hedge_carries_on_when_the_first_worker_is_lost_or_crashes_or_is_replaced() {
    for cause in [DownCause::Lost, DownCause::Crashed, DownCause::Left] {
        let mut stage = stage();
        let (_, hedge) = with_hedge(&mut stage);
        assert_eq!(stage.down(WORKER, cause), []);
        assert_eq!(stage.finish(&hedge), [complete(1), complete(2), complete(3)]);
    }
    let mut stage = stage();
    let (first, hedge) = with_hedge(&mut stage);
    // The model lets a batch run for five seconds, and the hedge began 13 ms later.
    let (worker, epoch, batch) = (first.worker, first.epoch, first.batch);
    assert_eq!(stage.pass(4_987), [Output::Replace { worker, epoch, batch }]);
    assert_eq!(stage.item(&hedge, 1, ItemOutcome::Ok), [complete(1)]);
}

#[test]
fn the_first_carries_on_when_the_hedge_fails_or_is_lost() {
    for reason in [BatchFailure::Item, BatchFailure::OutOfMemory, BatchFailure::Timeout] {
        let mut stage = stage();
        let (first, hedge) = with_hedge(&mut stage);
        assert_eq!(stage.fail(&hedge, reason), []);
        assert_eq!(stage.finish(&first), [complete(1), complete(2), complete(3)]);
    }
    let mut stage = stage();
    let (first, _) = with_hedge(&mut stage);
    assert_eq!(stage.down(OTHER_WORKER, DownCause::Crashed), []);
    assert_eq!(stage.finish(&first), [complete(1), complete(2), complete(3)]);
}

#[test]
fn what_breaks_both_is_halved_once() {
    let mut stage = stage();
    let (first, hedge) = with_hedge(&mut stage);
    assert_eq!(stage.fail(&first, BatchFailure::Item), []);
    assert_eq!(stage.fail(&hedge, BatchFailure::Item), []);
    let half = stage.take(OTHER_WORKER);
    assert_eq!((ids(&half), half.close), (vec![1, 2], CloseReason::Isolated));
}

#[test]
fn who_is_left_alone_is_not_guilty_of_what_another_may_have_done() {
    let mut stage = stage();
    let soon = Some(stage.now + ms(15));
    stage.queue([1]);
    stage.submit(Group { deadline: soon, ..call(2, [2]) });
    let first = stage.take(WORKER);
    stage.credit(OTHER_WORKER, 0, AMPLE);
    // The second could not end before its deadline elsewhere, so it is in the first batch only.
    let hedge = only_dispatch(stage.pass(12));
    assert_eq!(ids(&hedge), [1]);
    assert_eq!(stage.fail(&first, BatchFailure::Item), [], "either may have broken it");
}

#[test]
fn a_client_that_goes_away_is_told_to_both_workers() {
    let mut stage = stage();
    let (first, hedge) = with_hedge(&mut stage);
    let told = stage.tell(Input::Cancel(GroupId(2)));
    assert_eq!(told, [cancel_running(&first, &[2]), cancel_running(&hedge, &[2])]);
    assert_eq!(stage.item(&hedge, 2, ItemOutcome::Ok), []);
    assert_eq!(stage.item(&hedge, 1, ItemOutcome::Ok), [complete(1), cancel_running(&first, &[1])]);
}

#[test]
fn a_deadline_that_passes_is_told_to_both_workers() {
    let mut stage = stage();
    let deadline = Some(stage.now + ms(40));
    stage.submit(Group { deadline, ..call(1, [1]) });
    let first = stage.take(WORKER);
    stage.credit(OTHER_WORKER, 0, AMPLE);
    let hedge = only_dispatch(stage.pass(13));
    let outputs = stage.pass(27);
    let told = [cancel_running(&first, &[1]), cancel_running(&hedge, &[1])];
    assert_eq!(outputs[0], failed(1, Failure::DeadlinePassed));
    assert_eq!(outputs[1..], told);
}

#[test]
fn other_policies_mind_no_slow_batches() {
    let limits = Limits { hedges_per_mille: 1_000, ..Limits::default() };
    let mut stage = Stage::new(limits, vec![ModelConfig { policy: PolicyConfig::Fixed, ..learned() }]);
    stage.ready(WORKER);
    stage.ready(OTHER_WORKER);
    stage.queue([1]);
    stage.take(WORKER);
    stage.credit(OTHER_WORKER, 0, AMPLE);
    assert_eq!(stage.pass(1_000), []);
    assert_eq!(stage.core.counts().suspects, 0);
}
