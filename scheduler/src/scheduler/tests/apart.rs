//! Parts of batches that failed: nothing else is with their worker.

use super::*;

/// As [`after_a_break`], while the other worker has a batch in hand and the first is not back.
fn beside_a_busy_worker() -> (Stage, Dispatch) {
    let mut stage = Stage::with_worker();
    stage.ready(OTHER_WORKER);
    stage.queue([9]);
    let busy = stage.take(OTHER_WORKER);
    stage.queue([1, 2]);
    stage.take(WORKER);
    assert_eq!(stage.down(WORKER, DownCause::DeviceBroke), []);
    (stage, busy)
}

/// What is sent for `outputs`: to whom, which requests, and why it was closed.
fn sent(outputs: &[Output]) -> Vec<(WorkerId, Vec<u64>, CloseReason)> {
    dispatches(outputs).iter().map(|dispatch| (dispatch.worker, ids(dispatch), dispatch.close)).collect()
}

#[test]
fn gives_a_worker_nothing_beside_a_part() {
    let mut stage = after_a_break();
    stage.queue([3]);
    let part = stage.take(WORKER);
    assert_eq!((ids(&part), part.close), (vec![1], CloseReason::Isolated));
    assert_eq!(stage.credit(WORKER, 1, AMPLE), [], "neither another part nor who is innocent");
    let next = stage.finish(&part);
    assert_eq!(sent(&next), [(WORKER, vec![2], CloseReason::Isolated)]);
    assert_eq!(stage.credit(WORKER, 0, AMPLE), []);
    let last = stage.finish(&only_dispatch(next));
    assert_eq!(sent(&last), [(WORKER, vec![3], CloseReason::Drained)]);
}

#[test]
fn holds_a_worker_until_it_is_through_and_gives_it_the_part_then() {
    let (mut stage, busy) = beside_a_busy_worker();
    assert_eq!(stage.credit(OTHER_WORKER, 1, AMPLE), [], "not behind what it has");
    stage.queue([3]);
    assert_eq!(sent(&stage.finish(&busy)), [(OTHER_WORKER, vec![1], CloseReason::Isolated)]);
}

#[test]
fn blames_nobody_who_was_not_there() {
    let (mut stage, busy) = beside_a_busy_worker();
    stage.credit(OTHER_WORKER, 1, AMPLE);
    let part = only_dispatch(stage.finish(&busy));
    stage.queue([3]);
    stage.credit(OTHER_WORKER, 0, AMPLE);
    assert_eq!(ids(&part), [1]);
    assert_eq!(stage.down(OTHER_WORKER, DownCause::DeviceBroke), [failed(1, Failure::Poison)]);
    stage.ready(WORKER);
    let spared = stage.take(WORKER);
    assert_eq!((ids(&spared), spared.close), (vec![2], CloseReason::Isolated));
    let innocent = stage.finish(&spared);
    assert_eq!(innocent, [complete(2)]);
    let innocent = stage.take(WORKER);
    assert_eq!((ids(&innocent), innocent.attempt, innocent.close), (vec![3], Attempt(1), CloseReason::Drained));
}

#[test]
fn gives_a_part_to_whoever_is_idle_first_and_holds_nobody_then() {
    let (mut stage, _) = beside_a_busy_worker();
    assert_eq!(stage.credit(OTHER_WORKER, 1, AMPLE), []);
    stage.ready(WORKER);
    assert_eq!(sent(&stage.credit(WORKER, 0, AMPLE)), [(WORKER, vec![1], CloseReason::Isolated)], "it is idle first");
    // The other part still waits for the worker that is busy, and the part's worker takes nothing.
    stage.queue([3]);
    assert_eq!(stage.credit(WORKER, 1, AMPLE), []);
    const THIRD_WORKER: WorkerId = WorkerId(3);
    stage.ready(THIRD_WORKER);
    let idle = stage.credit(THIRD_WORKER, 0, AMPLE);
    let expected = [(THIRD_WORKER, vec![2], CloseReason::Isolated), (OTHER_WORKER, vec![3], CloseReason::Drained)];
    assert_eq!(sent(&idle), expected, "nothing is left to hold the other for");
}

#[test]
fn holds_one_worker_for_the_parts_of_all_its_models() {
    let mut stage = Stage::new(Limits::default(), vec![config(MODEL), config(OTHER_MODEL)]);
    stage.ready(WORKER);
    stage.ready(OTHER_WORKER);
    stage.queue([8]);
    let one = stage.take(WORKER);
    stage.queue([9]);
    let other = stage.take(OTHER_WORKER);
    const THIRD_WORKER: WorkerId = WorkerId(3);
    stage.ready(THIRD_WORKER);
    stage.queue([1]);
    stage.take(THIRD_WORKER);
    stage.submit(Group { model: OTHER_MODEL, ..call(2, [2]) });
    assert_eq!(ids(&only_dispatch(stage.credit(THIRD_WORKER, 1, AMPLE))), [2]);
    assert_eq!(stage.down(THIRD_WORKER, DownCause::DeviceBroke), []);
    assert_eq!(stage.credit(WORKER, 1, AMPLE), [], "held for both");
    stage.queue([3]);
    assert_eq!(stage.core.counts().queued(), 3);
    assert_eq!(sent(&stage.credit(OTHER_WORKER, 1, AMPLE)), [(OTHER_WORKER, vec![3], CloseReason::Drained)]);
    let first = stage.finish(&one);
    assert_eq!(sent(&first), [(WORKER, vec![1], CloseReason::Isolated)]);
    stage.queue([4]);
    stage.credit(WORKER, 0, AMPLE);
    assert_eq!(sent(&stage.finish(&only_dispatch(first))), [(WORKER, vec![2], CloseReason::Isolated)]);
    stage.finish(&other);
}

#[test]
fn holds_a_worker_no_longer_than_the_part_is_wanted() {
    let (mut stage, _) = beside_a_busy_worker();
    assert_eq!(stage.credit(OTHER_WORKER, 1, AMPLE), []);
    stage.queue([3]);
    assert_eq!(stage.tell(Input::Cancel(GroupId(1))), []);
    assert_eq!(sent(&stage.tell(Input::Cancel(GroupId(2)))), [(OTHER_WORKER, vec![3], CloseReason::Drained)]);
}

#[test]
fn holds_nobody_who_takes_the_credit_back() {
    let (mut stage, busy) = beside_a_busy_worker();
    assert_eq!(stage.credit(OTHER_WORKER, 1, AMPLE), []);
    assert_eq!(stage.credit(OTHER_WORKER, 1, Budget { rows: 0, ..AMPLE }), []);
    assert_eq!(stage.finish(&busy), [complete(9)]);
    stage.ready(WORKER);
    assert_eq!(ids(&stage.take(WORKER)), [1]);
    assert_eq!(ids(&stage.take(OTHER_WORKER)), [2]);
}

#[test]
fn does_not_wait_for_a_held_worker_that_hangs_while_another_is_free() {
    let learned = PolicyConfig::Learned { wait_price: 1, waits_when_idle: false, on_late: crate::OnLate::Serve };
    let cost = crate::BatchCost { base_ns: 10_000_000, row_ns: 0, token_ps: 0, token_squared_fs: 0 };
    let model = ModelConfig { policy: learned, cost: Some(cost), ..config(MODEL) };
    let mut stage = Stage::new(Limits::default(), vec![model]);
    stage.ready(WORKER);
    stage.ready(OTHER_WORKER);
    stage.credit(OTHER_WORKER, 0, AMPLE);
    stage.submit(call(9, [9]));
    stage.credit(WORKER, 0, AMPLE);
    stage.submit(call(1, [1]));
    assert_eq!(stage.down(WORKER, DownCause::DeviceBroke), []);
    assert_eq!(stage.credit(OTHER_WORKER, 1, AMPLE), []);
    stage.pass(40);
    assert_eq!(stage.core.counts().suspects, 1, "its batch is slow");
    stage.ready(WORKER);
    stage.submit(call(2, [2]));
    assert_eq!(sent(&stage.credit(WORKER, 0, AMPLE)), [(WORKER, vec![1], CloseReason::Isolated)]);
}

#[test]
fn gives_a_part_of_the_least_urgent_class_its_turn_under_load() {
    let mut stage = Stage::with_worker();
    stage.submit(Group { class: Class::Bulk, ..call(1, [1]) });
    stage.submit(Group { class: Class::Bulk, ..call(2, [2]) });
    stage.take(WORKER);
    stage.down(WORKER, DownCause::DeviceBroke);
    stage.ready(WORKER);
    let mut running = std::collections::VecDeque::new();
    let mut sent = Vec::new();
    // Two batches in flight, and always somebody more urgent in the queue.
    for step in 0..80u64 {
        stage.now = stage.now + ms(1);
        let urgent = Group { class: Class::Interactive, ..call(100 + step, [100 + step]) };
        let mut outputs = stage.submit(urgent);
        outputs.extend(stage.credit(WORKER, (step % 2) as u32, Budget { rows: 1, ..AMPLE }));
        running.extend(dispatches(&outputs));
        if running.len() > 1 || step % 2 == 1 {
            let oldest: Dispatch = running.pop_front().unwrap();
            running.extend(dispatches(&stage.finish(&oldest)));
            sent.push(oldest);
        }
    }
    let at = |request| sent.iter().position(|dispatch| ids(dispatch) == [request]);
    assert!(at(1).is_some_and(|at| at <= 18) && at(2).is_some_and(|at| at <= 36), "{:?}, {:?}", at(1), at(2));
}
