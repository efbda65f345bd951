//! What is shown of calls and batches: those that were drawn, and those that ended badly.

use super::*;
use crate::traces::testing::{Unsent, ids, unsent};
use crate::traces::{Kept, Link, Ran};

const SPAN: u64 = 7;

/// A driver, and what it hands over; its calls have a span, drawn or not.
fn shown(sampled: bool) -> (Bench, Unsent) {
    let mut bench = Bench::new();
    let (tracer, records) = unsent(0.0);
    bench.driver.around.tracer = tracer;
    bench.trace = Trace { span: Some(ids(SPAN, sampled)), state: "a=1".into(), ..Trace::default() };
    (bench, records)
}

fn note(bench: &Bench) -> Option<crate::traces::Note> {
    bench.driver.around.tracer.take_note(ids(SPAN, true).span)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_drawn_is_linked_to_its_batch_and_its_batch_to_it() {
    let (mut bench, mut records) = shown(true);
    let mut worker = bench.worker("w", 1);
    let mut reply = bench.call(3);
    let batch = worker.run();
    let span = ids(SPAN, true);
    assert!(batch.rows.iter().all(|row| row.trace.as_parent() == Some(span.as_parent())));
    advance(Duration::from_millis(5)).await;
    bench.complete(&worker, &batch);
    outcome(&mut reply).expect("an answer");
    let (call, batch) = (records.call(), records.batch());
    assert!(records.is_empty());
    assert_eq!((call.ids, &*call.state), (span, "a=1"));
    let [run] = &call.runs[..] else { panic!("one run: {call:?}") };
    assert_eq!((run.link, run.rows, run.own_rows, run.worker.as_deref()), (Some(batch.ids), 3, 3, Some("w")));
    assert_eq!(run.ended - run.sent, Duration::from_millis(5));
    assert_eq!(batch.links, [Link::from(span)], "once, whatever its rows");
    let ran = Ran { waited: Duration::from_millis(1), compute: Duration::from_millis(2), page_in: Duration::ZERO };
    assert_eq!((batch.ran, batch.failed), (Some(ran), None));
    assert_eq!((batch.rows_max, batch.tokens_max), (8, 1000), "what its credit was for");
    let note = note(&bench).expect("a note");
    assert_eq!((note.request, note.rows, note.kept, note.is_late), (1, 3, None, false));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_calls_that_were_not_drawn_and_end_well() {
    let (mut bench, mut records) = shown(false);
    let mut worker = bench.worker("w", 1);
    let mut reply = bench.call(3);
    let batch = worker.run();
    bench.complete(&worker, &batch);
    outcome(&mut reply).expect("an answer");
    assert!(records.is_empty() && note(&bench).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_late_call_is_shown_with_the_batch_that_made_it_late() {
    let (mut bench, mut records) = shown(false);
    let mut worker = bench.worker("w", 1);
    let mut reply = bench.call(10);
    let first = worker.run();
    bench.complete(&worker, &first);
    bench.credit(&worker, 0);
    let second = worker.run();
    advance(Duration::from_millis(51)).await;
    bench.complete(&worker, &second);
    outcome(&mut reply).expect("an answer");
    let (call, batch) = (records.call(), records.batch());
    let links: Vec<_> = call.runs.iter().map(|run| run.link).collect();
    assert_eq!(links, [None, Some(batch.ids)], "nobody knew when the first one ended");
    assert_eq!(batch.links, [Link::from(ids(SPAN, false))]);
    let note = note(&bench).expect("a note");
    assert_eq!((note.kept, note.is_late, &*note.state), (Some(Kept::Late), true, "a=1"));
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_worker_was_lost_says_so_and_its_call_runs_again() {
    let (mut bench, mut records) = shown(true);
    let mut worker = bench.worker("w", 1);
    let mut reply = bench.call(2);
    worker.run();
    bench.apply(Event::ProcessEnded { worker: "w".into(), cause: DownCause::Lost });
    let lost = records.batch();
    assert_eq!((lost.failed, lost.ran), (Some("worker_lost"), None));
    let mut worker = bench.worker("w", 2);
    let batch = worker.run();
    bench.complete(&worker, &batch);
    outcome(&mut reply).expect("an answer");
    let (call, batch) = (records.call(), records.batch());
    let links: Vec<_> = call.runs.iter().map(|run| (run.attempt, run.link)).collect();
    assert_eq!(links, [(1, Some(lost.ids)), (2, Some(batch.ids))]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_in_the_queue_says_what_it_waited_for() {
    let (mut bench, mut records) = shown(false);
    let mut reply = bench.call(2);
    advance(Duration::from_secs(10)).await;
    bench.driver.tick(Instant::now());
    assert!(matches!(outcome(&mut reply), Err(CallError::ModelNotReady { .. })));
    let call = records.call();
    assert_eq!(call.left_queue - call.submitted, Duration::from_secs(10));
    assert_eq!(call.waits.of(shoal_scheduler::WaitCause::NoWorker), Duration::from_secs(10));
    assert!(call.runs.is_empty() && records.is_empty());
    assert_eq!(note(&bench).expect("a note").kept, Some(Kept::Error));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_went_away_leaves_no_note_behind() {
    let (mut bench, mut records) = shown(true);
    let mut worker = bench.worker("w", 1);
    drop(bench.call(1));
    let batch = worker.run();
    bench.complete(&worker, &batch);
    assert!(note(&bench).is_none(), "it was answered before the driver heard");
    records.call();
    records.batch();
    drop(bench.call(1));
    bench.driver.cancel(Instant::now(), GroupId(2));
    records.call();
    assert!(note(&bench).is_none());
}
