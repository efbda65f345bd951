//! Which requests share a batch, in which order, and where it goes.

use super::*;

#[test]
fn forms_a_batch_only_when_a_credit_is_free() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2, 3]);
    let batch = stage.take(WORKER);
    assert_eq!((ids(&batch), batch.close, batch.attempt), (vec![1, 2, 3], CloseReason::Drained, Attempt(1)));
}

#[test]
fn sends_a_lone_request_at_once_when_a_worker_is_idle() {
    let mut stage = Stage::with_worker();
    assert_eq!(stage.credit(WORKER, 7, AMPLE), []);
    let batch = only_dispatch(stage.submit(call(1, [1])));
    assert_eq!((ids(&batch), batch.slot), (vec![1], Slot(7)));
}

#[test]
fn spends_a_credit_once() {
    let mut stage = Stage::with_worker();
    stage.queue([1]);
    stage.take(WORKER);
    stage.queue([2]);
    assert_eq!(stage.core.counts().credits, 0);
}

#[test]
fn completes_each_request_when_its_item_is_done() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2]);
    let batch = stage.take(WORKER);
    assert_eq!(stage.item(&batch, 2, ItemOutcome::Ok), [complete(2)]);
    assert_eq!(stage.item(&batch, 1, ItemOutcome::Failed), [failed(1, Failure::Item)]);
    assert_eq!(stage.end(&batch), []);
    assert_eq!(stage.core.counts(), crate::Counts { workers: 1, ..Default::default() });
}

#[test]
fn orders_by_the_earlier_of_deadline_and_objective() {
    let mut stage = Stage::with_worker();
    stage.queue([1]); // due in 100 ms
    stage.submit(Group { deadline: Some(stage.now + ms(50)), ..call(2, [2]) });
    stage.submit(Group { deadline: Some(stage.now + ms(500)), ..call(3, [3]) }); // the objective is earlier
    stage.submit(Group { deadline: Some(stage.now + ms(20)), ..call(4, [4]) });
    assert_eq!(ids(&stage.take(WORKER)), [4, 2, 1, 3]);
}

#[test]
fn puts_the_more_urgent_class_first_whatever_the_deadlines() {
    let mut stage = Stage::with_worker();
    stage.submit(Group { class: Class::Bulk, deadline: Some(stage.now + ms(5)), ..call(1, [1]) });
    stage.queue([2]);
    stage.submit(Group { class: Class::Interactive, ..call(3, [3]) });
    assert_eq!(ids(&stage.take(WORKER)), [3, 2, 1]);
}

#[test]
fn closes_at_the_budget_that_is_used_up() {
    let tight = [
        (Budget { rows: 2, ..AMPLE }, CloseReason::Rows),
        (Budget { tokens: 25, ..AMPLE }, CloseReason::Tokens),
        (Budget { bytes: 299, ..AMPLE }, CloseReason::Bytes),
    ];
    for (budget, close) in tight {
        let mut stage = Stage::with_worker();
        stage.queue([1, 2, 3]);
        let batch = only_dispatch(stage.credit(WORKER, 0, budget));
        assert_eq!((ids(&batch), batch.close), (vec![1, 2], close));
    }
}

#[test]
fn holds_the_models_own_limits_against_an_ample_credit() {
    let small = ModelConfig { batch_rows_max: NonZeroU32::new(2).unwrap(), ..config(MODEL) };
    let mut stage = Stage::new(Limits::default(), vec![small]);
    stage.ready(WORKER);
    stage.queue([1, 2, 3]);
    let batch = stage.take(WORKER);
    assert_eq!((ids(&batch), batch.close), (vec![1, 2], CloseReason::Rows));
}

#[test]
fn never_skips_a_head_that_does_not_fit_what_is_left() {
    let mut stage = Stage::with_worker();
    stage.queue([1]);
    let mut long = call(2, [2]);
    long.requests[0].cost.tokens = 90;
    stage.submit(long);
    stage.queue([3]);
    let batch = only_dispatch(stage.credit(WORKER, 0, Budget { tokens: 95, ..AMPLE }));
    assert_eq!((ids(&batch), batch.close), (vec![1], CloseReason::Tokens));
    assert_eq!(ids(&only_dispatch(stage.credit(WORKER, 1, Budget { tokens: 95, ..AMPLE }))), [2]);
}

#[test]
fn runs_a_request_alone_when_it_exceeds_every_credit() {
    let mut stage = Stage::with_worker();
    stage.queue([1, 2]);
    let batch = only_dispatch(stage.credit(WORKER, 0, Budget { tokens: 5, ..AMPLE }));
    assert_eq!((ids(&batch), batch.close), (vec![1], CloseReason::Tokens));
}

#[test]
fn never_mixes_models_in_a_batch_and_takes_the_more_urgent_one_first() {
    let mut stage = Stage::new(Limits::default(), vec![config(MODEL), config(OTHER_MODEL)]);
    stage.ready(WORKER);
    stage.queue([1]);
    stage.submit(Group { model: OTHER_MODEL, deadline: Some(stage.now + ms(10)), ..call(2, [2]) });
    stage.queue([3]);
    assert_eq!(ids(&stage.take(WORKER)), [2]);
    assert_eq!(ids(&stage.take(WORKER)), [1, 3]);
}

#[test]
fn sends_to_the_least_loaded_worker_then_to_the_lowest_id() {
    let mut stage = Stage::with_worker();
    stage.ready(OTHER_WORKER);
    for worker in [WORKER, OTHER_WORKER] {
        stage.credit(worker, 0, AMPLE);
        stage.credit(worker, 1, AMPLE);
    }
    let workers: Vec<_> = (1..=4).map(|id| only_dispatch(stage.submit(call(id, [id]))).worker).collect();
    assert_eq!(workers, [WORKER, OTHER_WORKER, WORKER, OTHER_WORKER]);
}

#[test]
fn spends_the_credit_that_allows_most() {
    let mut stage = Stage::with_worker();
    stage.credit(WORKER, 0, Budget { rows: 1, ..AMPLE });
    stage.credit(WORKER, 1, AMPLE);
    stage.credit(WORKER, 2, AMPLE);
    assert_eq!(only_dispatch(stage.submit(call(1, [1, 2, 3]))).slot, Slot(1));
}

#[test]
fn takes_a_credit_back_that_is_granted_again_with_no_rows() {
    let mut stage = Stage::with_worker();
    stage.credit(WORKER, 0, AMPLE);
    stage.credit(WORKER, 0, Budget { rows: 0, tokens: 0, bytes: 0 });
    stage.queue([1]);
    assert_eq!(stage.core.counts().credits, 0);
}

#[test]
fn sends_only_to_workers_that_hold_the_model() {
    let mut stage = Stage::with_fixed();
    stage.up(WORKER);
    stage.credit(WORKER, 0, AMPLE);
    stage.queue([1]);
    stage.model(WORKER, MODEL, ModelState::Loading);
    assert_eq!(ids(&only_dispatch(stage.model(WORKER, MODEL, ModelState::Ready))), [1]);
}

#[test]
fn gives_bulk_one_batch_in_seventeen_of_a_worker_that_is_always_wanted() {
    let mut stage = Stage::new(Limits::default(), vec![config(MODEL), config(OTHER_MODEL)]);
    stage.ready(WORKER);
    stage.submit(Group { class: Class::Bulk, model: OTHER_MODEL, ..call(1_000, [1_000]) });
    let mut led_by_bulk = Vec::new();
    for turn in 1..=20 {
        stage.submit(Group { class: Class::Interactive, ..call(turn, [turn]) });
        if ids(&stage.take(WORKER)) == [1_000] {
            led_by_bulk.push(turn);
        }
    }
    assert_eq!(led_by_bulk, [17]);
}

#[test]
fn remembers_whose_turn_it_is_when_the_worker_comes_back() {
    let one_row = Budget { rows: 1, ..AMPLE };
    let mut stage = Stage::with_worker();
    stage.queue([1_000]);
    for id in 1..=20 {
        stage.submit(Group { class: Class::Interactive, ..call(id, [id]) });
    }
    let mut order = Vec::new();
    for _ in 0..9 {
        order.extend(ids(&only_dispatch(stage.credit(WORKER, 0, one_row))));
        stage.ready(WORKER); // in a new epoch; what ran before is queued again
    }
    assert_eq!(order.iter().position(|id| *id == 1_000), Some(8), "{order:?}");
}

#[test]
fn keeps_the_place_of_a_class_whose_model_is_still_loading() {
    let one_row = Budget { rows: 1, ..AMPLE };
    let mut stage = Stage::new(Limits::default(), vec![config(MODEL), config(OTHER_MODEL)]);
    stage.ready(WORKER);
    stage.submit(Group { class: Class::Interactive, ..call(1, 1..=30) });
    stage.submit(Group { model: OTHER_MODEL, ..call(2, [101]) });
    let mut order = Vec::new();
    for _ in 0..9 {
        // The other model is passed over once, and once more is not there to be passed over.
        order.extend(ids(&only_dispatch(stage.credit(WORKER, 0, one_row))));
        stage.model(WORKER, OTHER_MODEL, ModelState::Loading);
        order.extend(ids(&only_dispatch(stage.credit(WORKER, 0, one_row))));
        stage.model(WORKER, OTHER_MODEL, ModelState::Ready);
    }
    assert_eq!(order.iter().position(|id| *id == 101), Some(16), "{order:?}");
}

#[test]
fn gives_standard_its_turn_inside_a_model_too() {
    let one_row = Budget { rows: 1, ..AMPLE };
    let mut stage = Stage::with_worker();
    stage.queue([1_000]);
    stage.submit(Group { class: Class::Interactive, ..call(1, 1..=20) });
    let order: Vec<_> = (0..10).map(|_| ids(&only_dispatch(stage.credit(WORKER, 0, one_row)))[0]).collect();
    assert_eq!(order, [1, 2, 3, 4, 5, 6, 7, 8, 1_000, 9]);
}

#[test]
fn a_late_backlog_does_not_hold_up_another_model_for_longer_than_its_objective() {
    let one_row = Budget { rows: 1, ..AMPLE };
    let mut stage = Stage::new(Limits::default(), vec![config(MODEL), config(OTHER_MODEL)]);
    stage.ready(WORKER);
    stage.submit(call(1, 1..=30));
    stage.pass(1_000); // all of them are late, and due before anything that comes now
    stage.submit(Group { model: OTHER_MODEL, ..call(2, [101, 102, 103]) });
    let mut next = || {
        stage.pass(20);
        ids(&only_dispatch(stage.credit(WORKER, 0, one_row)))[0]
    };
    let order: Vec<_> = (0..10).map(|_| next()).collect();
    // Once both are late they take turns.
    assert_eq!(order, [1, 2, 3, 4, 101, 5, 102, 6, 103, 7]);
}

#[test]
fn waits_for_a_preferred_size_under_the_triton_policy() {
    let mut stage = Stage::new(Limits::default(), vec![triton(MODEL)]);
    stage.ready(WORKER);
    stage.credit(WORKER, 0, AMPLE);
    stage.queue(1..=7);
    let batch = only_dispatch(stage.submit(call(8, [8])));
    assert_eq!((batch.requests.len(), batch.close), (8, CloseReason::Preferred));
}

#[test]
fn closes_when_the_oldest_request_has_waited_for_the_queue_delay() {
    let mut stage = Stage::new(Limits::default(), vec![triton(MODEL)]);
    stage.ready(WORKER);
    stage.credit(WORKER, 0, AMPLE);
    let arrival = stage.now;
    stage.queue([1]);
    stage.pass(15);
    stage.queue([2]);
    assert_eq!(stage.core.poll_timeout(), Some((arrival + ms(20), crate::Wake::Policy(MODEL))));
    let batch = only_dispatch(stage.pass(5));
    assert_eq!((ids(&batch), batch.close), (vec![1, 2], CloseReason::Delay));
    assert!(!matches!(stage.core.poll_timeout(), Some((_, crate::Wake::Policy(_)))));
}

#[test]
fn counts_the_queue_delay_anew_when_the_oldest_request_is_cancelled() {
    let mut stage = Stage::new(Limits::default(), vec![triton(MODEL)]);
    stage.ready(WORKER);
    stage.credit(WORKER, 0, AMPLE);
    stage.queue([1]);
    stage.pass(15);
    stage.queue([2]);
    stage.tell(Input::Cancel(GroupId(1)));
    assert_eq!(stage.core.poll_timeout(), Some((stage.now + ms(20), crate::Wake::Policy(MODEL))));
}

#[test]
fn asks_the_policy_again_when_only_a_smaller_credit_is_left() {
    let mut stage = Stage::new(Limits::default(), vec![triton(MODEL), config(OTHER_MODEL)]);
    stage.ready(WORKER);
    stage.ready(OTHER_WORKER);
    stage.credit(WORKER, 0, AMPLE);
    stage.queue(1..=4); // waits for eight under the ample credit
    assert_eq!(stage.credit(OTHER_WORKER, 0, Budget { rows: 4, ..AMPLE }), []);
    let outputs = stage.down(WORKER, DownCause::Left);
    assert_eq!(only_dispatch(outputs).close, CloseReason::Rows);
}
