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
    let queued = |position| {
        let because = Waiting::NoWorker;
        Explanation::Queued { model: MODEL, position, since, late: false, because }
    };
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

#[test]
fn a_queue_is_told_by_class_and_by_what_it_waits_for() {
    let mut stage = Stage::new(Limits::default(), vec![triton(MODEL)]);
    stage.ready(WORKER);
    let first = stage.now;
    stage.queue([1]);
    stage.pass(5);
    stage.submit(Group { class: Class::Bulk, ..call(2, [2, 3]) });
    let report = stage.core.queue_report(MODEL).unwrap();
    assert_eq!((report.on_time, report.late, report.apart), ([0, 1, 2], 0, 0));
    assert_eq!((report.oldest, report.next_due), (Some(first), Some(first + ms(100))));
    assert_eq!(report.because, Some(Waiting::NoCredit));
    stage.credit(WORKER, 0, AMPLE);
    let because = |stage: &Stage| stage.core.queue_report(MODEL).unwrap().because;
    assert_eq!(because(&stage), Some(Waiting::Policy { until: first + ms(20) }));
    stage.pass(15);
    assert_eq!(because(&stage), None);
    assert_eq!(stage.core.queue_report(OTHER_MODEL), None);
}

#[test]
fn what_waits_is_told_in_the_time_that_it_takes_in_large_batches() {
    let known = crate::BatchCost { base_ns: 5_000_000, row_ns: 1_000_000, ..Default::default() };
    let mut stage = Stage::new(Limits::default(), vec![ModelConfig { cost: Some(known), ..config(MODEL) }]);
    let work = |stage: &Stage| stage.core.queue(MODEL).unwrap().work;
    assert_eq!(work(&stage), Duration::ZERO);
    stage.queue(1..=90);
    // 90 ms in batches of 50, half of the objective, a tenth of which is their base.
    assert_eq!(work(&stage), ms(100));
    let mut unknown = Stage::new(Limits::default(), vec![config(MODEL)]);
    unknown.queue([1, 2]);
    assert_eq!(work(&unknown), Duration::ZERO);
}

#[test]
fn a_worker_is_told_with_what_it_runs_and_until_when() {
    let known = crate::BatchCost { base_ns: 10_000_000, row_ns: 1_000_000, ..Default::default() };
    let mut stage = Stage::new(Limits::default(), vec![ModelConfig { cost: Some(known), ..config(MODEL) }]);
    stage.ready(WORKER);
    stage.queue([1, 2]);
    let batch = stage.take(WORKER);
    let sent = stage.now;
    stage.pass(5);
    let reports: Vec<_> = stage.core.worker_reports().collect();
    let [report] = reports.as_slice() else { panic!("one worker: {reports:?}") };
    assert_eq!((report.worker, report.credits, report.suspect_until), (WORKER, 0, None));
    assert_eq!((report.free_at, report.ready.as_slice()), (sent + ms(12), &[MODEL][..]));
    let [running] = report.batches.as_slice() else { panic!("one batch: {report:?}") };
    assert_eq!((running.batch, running.model, running.rows, running.tokens), (batch.batch, MODEL, 2, 20));
    assert_eq!((running.sent, running.started, running.expected), (sent, Some(sent), ms(12)));
    stage.pass(50);
    let late: Vec<_> = stage.core.worker_reports().collect();
    assert_eq!(late[0].free_at, stage.now, "nobody is free in the past");
}

#[test]
fn who_comes_finds_a_queue_and_workers_that_are_busy_for_some_time() {
    let known = crate::BatchCost { base_ns: 10_000_000, row_ns: 1_000_000, ..Default::default() };
    let mut stage = Stage::new(Limits::default(), vec![ModelConfig { cost: Some(known), ..config(MODEL) }]);
    let one = Cost { rows: 1, tokens: 10, tokens_squared: 100, bytes: 100 };
    let none = stage.core.situation(MODEL, one).unwrap();
    assert_eq!((none.queued, none.workers, none.free_at, none.alone), (0, 0, None, None));
    assert_eq!(none.because, crate::WaitCause::NoWorker);
    stage.ready(WORKER);
    stage.queue([1]);
    stage.take(WORKER);
    stage.queue([2, 3]);
    let busy = stage.core.situation(MODEL, one).unwrap();
    assert_eq!((busy.queued, busy.workers, busy.free_at), (2, 1, Some(stage.now + ms(11))));
    assert_eq!((busy.alone, busy.because), (Some(ms(11)), crate::WaitCause::WorkersBusy));
    stage.pass(20);
    let late = stage.core.situation(MODEL, one).unwrap();
    assert_eq!((late.are_busy, late.free_at), (true, Some(stage.now)), "it should have been through by now");
    assert_eq!(stage.core.situation(OTHER_MODEL, one), None);
}
