//! What a person who asks is told.

use super::*;
use crate::{Explanation, Waiting};

fn because(stage: &Stage, request: u64) -> Waiting {
    match stage.core.explain(RequestId(request)) {
        Some(Explanation::Queued { because, .. }) => because,
        other => panic!("not queued: {other:?}"),
    }
}

#[test]
fn says_what_a_queued_request_waits_for() {
    let mut stage = Stage::with_fixed();
    stage.queue([1]);
    assert_eq!(because(&stage, 1), Waiting::NoWorker);
    stage.up(WORKER);
    assert_eq!(because(&stage, 1), Waiting::ModelLoading);
    stage.model(WORKER, MODEL, ModelState::Ready);
    assert_eq!(because(&stage, 1), Waiting::NoCredit);
    stage.model(WORKER, MODEL, ModelState::Failed);
    assert_eq!(because(&stage, 1), Waiting::NoWorker);
}

#[test]
fn says_until_when_a_policy_waits() {
    let mut stage = Stage::new(Limits::default(), vec![triton(MODEL)]);
    stage.ready(WORKER);
    stage.credit(WORKER, 0, AMPLE);
    stage.queue([1]);
    assert_eq!(because(&stage, 1), Waiting::Policy { until: stage.now + ms(20) });
}

#[test]
fn says_how_many_stand_before_a_request() {
    let mut stage = Stage::with_fixed();
    stage.queue([1, 2]);
    stage.submit(Group { class: Class::Interactive, ..call(3, [3]) });
    let since = stage.now;
    let queued = |position| Explanation::Queued { model: MODEL, position, since, because: Waiting::NoWorker };
    let positions = [3, 1, 2].map(|id| stage.core.explain(RequestId(id)));
    assert_eq!(positions, [0, 1, 2].map(|position| Some(queued(position))));
}

#[test]
fn says_where_a_request_runs_and_nothing_once_it_has_ended() {
    let mut stage = Stage::with_worker();
    stage.queue([1]);
    stage.pass(5);
    let batch = stage.take(WORKER);
    let running = Explanation::Running {
        model: MODEL,
        worker: WORKER,
        batch: batch.batch,
        attempt: Attempt(1),
        since: stage.now,
    };
    assert_eq!(stage.core.explain(RequestId(1)), Some(running));
    stage.finish(&batch);
    assert_eq!(stage.core.explain(RequestId(1)), None);
}

#[test]
fn counts_what_is_queued_and_running() {
    let mut stage = Stage::with_worker();
    stage.queue([1]);
    stage.take(WORKER);
    stage.pass(5);
    stage.queue([2, 3]);
    let counts = stage.core.counts();
    assert_eq!((counts.queued_by_class, counts.running, counts.batches), ([0, 2, 0], 1, 1));
    assert_eq!((counts.bytes_queued, counts.workers, counts.credits), (200, 1, 0));
    let queue = stage.core.queue(MODEL).unwrap();
    assert_eq!((queue.requests, queue.rows, queue.tokens, queue.bytes), (2, 2, 20, 200));
    assert_eq!(queue.oldest, Some(stage.now));
}
