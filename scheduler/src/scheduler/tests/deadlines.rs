//! Clients' deadlines that cannot be kept.

use super::*;
use crate::{BatchCost, Reject};

/// Batches are known to take 4 ms and half a millisecond for each row, and a third less at the quickest.
fn known() -> ModelConfig {
    let cost = Some(BatchCost { base_ns: 4_000_000, row_ns: 500_000, ..BatchCost::default() });
    ModelConfig { cost, ..config(MODEL) }
}

fn stage() -> Stage {
    let mut stage = Stage::new(Limits::default(), vec![known()]);
    stage.ready(WORKER);
    stage
}

fn until(stage: &Stage, id: u64, micros: u64) -> Group {
    Group { deadline: Some(stage.now + Duration::from_micros(micros)), ..call(id, [id]) }
}

fn rejection(outputs: &[Output]) -> Reject {
    match outputs {
        [Output::Reject { why, .. }] => *why,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_deadline_shorter_than_one_request_takes_is_refused_at_once_with_both_times() {
    let mut stage = stage();
    let (left, needed) = (Duration::from_micros(2_900), Duration::from_micros(4_500));
    let group = until(&stage, 1, 2_900);
    assert_eq!(rejection(&stage.submit(group)), Reject::DeadlineTooShort { left, needed });
    assert_eq!(stage.core.counts().queued(), 0);
    // It may take a third less than is thought.
    let group = until(&stage, 2, 3_100);
    assert_eq!(stage.submit(group), []);
}

#[test]
fn the_longest_request_of_a_call_decides_for_all_of_it() {
    let mut stage = stage();
    let mut group = Group { deadline: Some(stage.now + ms(6)), ..call(1, [1, 2]) };
    assert_eq!(stage.submit(group.clone()), []);
    group = Group { id: GroupId(3), requests: call(3, [3, 4]).requests, ..group };
    group.requests[1].cost.rows = 16;
    assert_eq!(rejection(&stage.submit(group)), Reject::DeadlineTooShort { left: ms(6), needed: ms(12) });
}

#[test]
fn nobody_is_refused_by_what_is_not_known() {
    let mut stage = Stage::with_worker();
    let group = until(&stage, 1, 1);
    assert_eq!(stage.submit(group), []);
    let mut loading = Stage::new(Limits::default(), vec![known()]);
    let group = until(&loading, 1, 1);
    assert_eq!(loading.submit(group), [], "no worker has it");
    loading.up(WORKER);
    let group = until(&loading, 2, 1);
    assert_eq!(loading.submit(group), [], "a worker loads it");
}

#[test]
fn sizes_unlike_any_that_ran_refuse_nobody() {
    let mut stage = Stage::with_worker();
    for round in 0..40 {
        stage.queue(round * 64..round * 64 + 64);
        let batch = stage.take(WORKER);
        stage.pass(36);
        stage.finish(&batch);
    }
    // One row alone may take any part of 36 ms; 64 do take that.
    let group = until(&stage, 10_000, 5_000);
    assert_eq!(stage.submit(group), []);
    let mut group = until(&stage, 10_001, 5_000);
    group.requests[0].cost = Cost { rows: 64, tokens: 640, tokens_squared: 6_400, bytes: 1 };
    assert!(matches!(rejection(&stage.submit(group)), Reject::DeadlineTooShort { .. }));
}

#[test]
fn a_deadline_that_no_worker_is_free_for_is_refused_with_a_time_to_come_back() {
    let mut stage = stage();
    stage.queue(1..=32);
    let batch = stage.take(WORKER);
    // The batch takes 20 ms, 13.3 at the quickest; one more 3 at the quickest.
    let group = until(&stage, 100, 6_000);
    let why = rejection(&stage.submit(group));
    let Reject::DeadlineUnmeetable { retry_after } = why else { panic!("{why:?}") };
    assert!((ms(10)..ms(16)).contains(&retry_after), "{retry_after:?}");
    stage.pass(11);
    let group = until(&stage, 101, 6_000);
    assert_eq!(stage.submit(group), [], "the batch may end any moment");
    stage.finish(&batch);
}

#[test]
fn one_worker_with_time_is_enough() {
    let mut stage = stage();
    stage.queue(1..=32);
    stage.take(WORKER);
    stage.ready(OTHER_WORKER);
    let group = until(&stage, 100, 6_000);
    assert_eq!(stage.submit(group), []);
    assert_eq!(ids(&stage.take(OTHER_WORKER)), [100]);
}

#[test]
fn an_estimate_that_refuses_everybody_is_tried_once_a_second() {
    let mut stage = stage();
    let mut tried = 0;
    for id in 1..=2_000 {
        let group = until(&stage, id, 500);
        tried += u64::from(stage.submit(group).is_empty());
        stage.pass(1);
    }
    assert_eq!(tried, 2);
}
