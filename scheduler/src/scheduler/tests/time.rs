//! Deadlines, queue times, overdue batches, and clocks that go wrong.

use super::*;
use crate::Wake;

#[test]
fn fails_a_queued_request_at_its_deadline_without_a_workers_help() {
    let mut stage = Stage::with_fixed();
    stage.submit(Group { deadline: Some(stage.now + ms(30)), ..call(1, [1]) });
    assert_eq!(stage.core.poll_timeout(), Some((stage.now + ms(30), Wake::Expiry)));
    assert_eq!(stage.pass(29), []);
    assert_eq!(stage.pass(1), [failed(1, Failure::DeadlinePassed)]);
    assert_eq!(stage.core.poll_timeout(), None);
}

#[test]
fn fails_a_running_request_at_its_deadline_and_drops_its_result() {
    let mut stage = Stage::with_worker();
    stage.submit(Group { deadline: Some(stage.now + ms(30)), ..call(1, [1]) });
    stage.queue([2]);
    let batch = stage.take(WORKER);
    assert_eq!(stage.pass(30), [failed(1, Failure::DeadlinePassed), cancel_running(&batch, &[1])]);
    assert_eq!(stage.item(&batch, 1, ItemOutcome::Ok), []);
    assert_eq!(stage.dropped(), 1);
    assert_eq!(stage.item(&batch, 2, ItemOutcome::Ok), [complete(2)]);
}

#[test]
fn never_completes_a_request_at_or_after_its_deadline() {
    let mut stage = Stage::with_worker();
    stage.submit(Group { deadline: Some(stage.now + ms(30)), ..call(1, [1]) });
    let batch = stage.take(WORKER);
    stage.now = stage.now + ms(30);
    let outputs = stage.item(&batch, 1, ItemOutcome::Ok);
    assert_eq!(outputs, [failed(1, Failure::DeadlinePassed), cancel_running(&batch, &[1])]);
}

#[test]
fn fails_a_request_that_waited_too_long() {
    let brief = ModelConfig { queue_time_max: ms(40), ..config(MODEL) };
    let mut stage = Stage::new(Limits::default(), vec![brief]);
    stage.queue([1]);
    assert_eq!(stage.pass(40), [failed(1, Failure::QueueTimeout)]);
}

#[test]
fn does_not_count_running_time_as_waiting() {
    let brief = ModelConfig { queue_time_max: ms(40), ..config(MODEL) };
    let mut stage = Stage::new(Limits::default(), vec![brief]);
    stage.ready(WORKER);
    stage.queue([1]);
    stage.take(WORKER);
    assert_eq!(stage.pass(100), []);
    stage.down(WORKER, DownCause::Lost);
    assert_eq!(stage.pass(39), []);
    assert_eq!(stage.pass(1), [failed(1, Failure::QueueTimeout)]);
}

#[test]
fn fails_at_once_what_may_not_wait_and_found_no_worker() {
    let impatient = ModelConfig { queue_time_max: Duration::ZERO, ..config(MODEL) };
    let mut stage = Stage::new(Limits::default(), vec![impatient]);
    assert_eq!(stage.submit(call(1, [1])), [failed(1, Failure::QueueTimeout)]);
    stage.ready(WORKER);
    stage.credit(WORKER, 0, AMPLE);
    assert_eq!(ids(&only_dispatch(stage.submit(call(2, [2])))), [2]);
}

#[test]
fn replaces_a_worker_that_holds_a_batch_for_too_long() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2]);
    let batch = stage.take(WORKER);
    assert_eq!(stage.core.poll_timeout(), Some((stage.now + ms(5_000), Wake::BatchOverdue(batch.batch))));
    let replace = Output::Replace { worker: WORKER, epoch: batch.epoch, batch: batch.batch };
    assert_eq!(stage.pass(5_000), [replace]);
    stage.ready(WORKER);
    let half = stage.take(WORKER);
    assert_eq!((ids(&half), half.close), (vec![1], CloseReason::Isolated), "its batch is suspect");
}

#[test]
fn counts_the_time_of_a_batch_from_when_the_worker_could_begin_it() {
    let mut stage = Stage::with_worker();
    stage.queue([1]);
    let first = stage.take(WORKER);
    stage.queue([2]);
    let second = stage.take(WORKER);
    stage.pass(4_000);
    stage.finish(&first);
    assert_eq!(stage.pass(4_000), [], "the second has run for 4 s, whenever it was sent");
    assert_eq!(stage.finish(&second), [complete(2)]);
}

#[test]
fn holds_a_clock_that_goes_backwards_and_counts_it() {
    let mut stage = Stage::with_fixed();
    stage.submit(Group { deadline: Some(stage.now + ms(30)), ..call(1, [1]) });
    stage.pass(20);
    stage.now = stage.now - ms(500);
    stage.queue([2]);
    assert_eq!(stage.core.counts().clock_reversals, 1);
    stage.now = stage.now + ms(500);
    assert_eq!(stage.pass(10), [failed(1, Failure::DeadlinePassed)]);
}
