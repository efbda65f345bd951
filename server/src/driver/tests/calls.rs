//! What becomes of calls: answered in order and once, failed alone, given up in time, refused.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_call_over_several_batches_is_answered_once_and_in_order() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let mut reply = bench.call(10);
    let first = worker.run();
    assert_eq!(first.rows.len(), 8);
    bench.complete(&worker, &first);
    assert!(reply.try_recv().is_err(), "two rows are still missing");
    bench.credit(&worker, 0);
    let second = worker.run();
    bench.complete(&worker, &second);
    let answer = outcome(&mut reply).expect("answer");
    let rows: Vec<_> = answer.rows.iter().map(|row| row[0].data.clone()).collect();
    let expected: Vec<_> = (1..=10_u64).map(|index| Bytes::from(index.to_le_bytes().to_vec())).collect();
    assert_eq!(rows, expected);
    let own: Vec<_> = answer.batches.iter().map(|batch| batch.own_rows).collect();
    assert_eq!(own, [8, 2]);
    assert_eq!(answer.compute_time, Duration::from_millis(2));
}

#[tokio::test(start_paused = true)]
async fn an_answer_waits_for_its_batch_to_end_so_that_it_can_say_what_it_took() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let mut reply = bench.call(1);
    let batch = worker.run();
    let items = vec![ok(0, &Bytes::from_static(b"x"))];
    bench.say(&worker, FromWorker::Items { batch: batch.batch, attempt: batch.attempt, items });
    assert!(reply.try_recv().is_err());
    bench.end(&worker, &batch);
    assert!(outcome(&mut reply).is_ok());
}

#[tokio::test(start_paused = true)]
async fn queue_time_counts_from_admission_to_dispatch() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let _running = bench.call(1);
    let first = worker.run();
    let mut reply = bench.call(1);
    advance(Duration::from_millis(30)).await;
    bench.complete(&worker, &first);
    bench.credit(&worker, 0);
    let second = worker.run();
    bench.complete(&worker, &second);
    assert_eq!(outcome(&mut reply).expect("answer").queue_time, Duration::from_millis(30));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_waiting_call_without_a_worker() {
    let mut bench = Bench::new();
    let mut reply = bench.call_until(1, Some(Duration::from_millis(5)));
    let wake = bench.driver.next_wake().expect("a wake-up");
    assert_eq!(wake, Instant::now() + Duration::from_millis(5));
    advance(Duration::from_millis(5)).await;
    bench.driver.tick(Instant::now());
    assert_eq!(outcome(&mut reply).expect_err("error"), CallError::DeadlinePassed);
}

#[tokio::test(start_paused = true)]
async fn a_call_with_all_its_results_waits_for_the_end_of_its_batch_no_longer_than_its_deadline() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let mut reply = bench.call_until(1, Some(Duration::from_millis(5)));
    let batch = worker.run();
    let items = vec![ok(0, &Bytes::new())];
    bench.say(&worker, FromWorker::Items { batch: batch.batch, attempt: batch.attempt, items });
    assert!(reply.try_recv().is_err());
    assert_eq!(bench.driver.next_wake(), Some(Instant::now() + Duration::from_millis(5)));
    advance(Duration::from_millis(5)).await;
    bench.driver.tick(Instant::now());
    assert_eq!(outcome(&mut reply).expect_err("error"), CallError::DeadlinePassed);
    bench.end(&worker, &batch);
    assert!(bench.driver.unended.is_empty() && bench.driver.calls.len() == 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_is_taken_from_its_worker() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let _reply = bench.call(2);
    let batch = worker.run();
    bench.driver.cancel(Instant::now(), GroupId(1));
    match worker.command() {
        ToWorker::Cancel { batch: cancelled, items } => {
            assert_eq!((cancelled, items), (batch.batch, vec![0, 1]));
        }
        other => panic!("not a cancel: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_overtakes_its_call_keeps_it_from_running() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    bench.driver.cancel(Instant::now(), GroupId(1));
    let (reply, answer) = oneshot::channel();
    drop(answer);
    let (tenant, trace, explain) = ("t".into(), Trace::default(), Asked::default());
    let caller = Caller { tenant, class: Class::Standard, deadline: None, trace, explain, scope: Scope::default() };
    let row = Row { columns: vec![Bytes::new()], tokens: 1, truncated: false, options: RowOptions::default() };
    bench.apply(Event::Submit {
        first: 1,
        call: Call { model: "m".into(), stands_in_for: None, caller, rows: vec![row] },
        reply,
    });
    assert!(worker.commands.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn one_bad_row_fails_its_call_and_not_its_mates() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let _running = bench.call(1);
    let first = worker.run();
    let (mut bad, mut good) = (bench.call(2), bench.call(1));
    bench.complete(&worker, &first);
    bench.credit(&worker, 0);
    let batch = worker.run();
    assert_eq!(batch.rows.len(), 3);
    let failed = ItemResult { index: 1, result: Err(ItemError::Input("no such token".into())) };
    let items = vec![ok(0, &Bytes::new()), failed, ok(2, &Bytes::from_static(b"good"))];
    bench.say(&worker, FromWorker::Items { batch: batch.batch, attempt: batch.attempt, items });
    bench.end(&worker, &batch);
    let error = outcome(&mut bad).expect_err("error");
    assert_eq!(error, CallError::Item { field: "[1]".into(), problem: "no such token".into() });
    assert_eq!(outcome(&mut good).expect("answer").rows[0][0].data, Bytes::from_static(b"good"));
}

#[tokio::test(start_paused = true)]
async fn a_poison_row_is_found_by_halves() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let _running = bench.call(1);
    let first = worker.run();
    let mut calls: Vec<Reply> = (0..4).map(|_| bench.call(1)).collect();
    bench.complete(&worker, &first);
    for _ in 0..16 {
        bench.credit(&worker, 0);
        let Ok(ToWorker::Run(batch)) = worker.commands.try_recv() else { break };
        // The third call's row has the id 4.
        let culprit =
            batch.rows.len() == 4 || bench.driver.batches[&batch.batch].dispatch.requests.contains(&RequestId(4));
        if culprit {
            let reason = BatchFailure::Item;
            let failed =
                FromWorker::BatchFailed { batch: batch.batch, attempt: batch.attempt, reason, detail: "boom".into() };
            bench.say(&worker, failed);
        } else {
            bench.complete(&worker, &batch);
        }
    }
    let outcomes: Vec<_> = calls.iter_mut().map(|reply| outcome(reply).map(|_| ())).collect();
    assert_eq!(outcomes[2], Err(CallError::Poison { field: "[0]".into() }));
    assert!([0, 1, 3].into_iter().all(|index| outcomes[index].is_ok()), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_refused_with_a_time_to_come_back() {
    let mut bench = Bench::new();
    let _queued = bench.call(100);
    let mut refused = bench.call(1);
    match outcome(&mut refused).expect_err("error") {
        CallError::QueueFull { limit: QueueLimit::Model, retry_after } => assert!(retry_after > Duration::ZERO),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_last_call_and_refuses_new_ones() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let mut reply = bench.call(1);
    let batch = worker.run();
    let (done, mut drained) = oneshot::channel();
    bench.apply(Event::Drain { grace: Duration::from_secs(5), done });
    assert_eq!(outcome(&mut bench.call(1)).expect_err("error"), CallError::Draining);
    assert!(drained.try_recv().is_err());
    bench.complete(&worker, &batch);
    assert!(outcome(&mut reply).is_ok());
    assert!(drained.try_recv().is_ok());
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_call_that_fails_as_its_batch_is_sent_shift_nobody_elses_answer() {
    let mut bench = Bench::new();
    let mut first = bench.worker("w", 1);
    bench.say(&first, FromWorker::Credit { slot: Slot(0), budget: Budget { rows: 1, tokens: 1000, bytes: 1 << 20 } });
    let mut failing = bench.call(2);
    assert_eq!(first.run().rows.len(), 1);
    advance(Duration::from_secs(5)).await;
    let mut others = [bench.call(1), bench.call(1)];
    bench.apply(Event::ProcessEnded { worker: "w".into(), cause: DownCause::Lost });
    let mut second = bench.connect("w", 2);
    assert!(matches!(second.command(), ToWorker::Load { .. }));
    bench.say(&second, FromWorker::Model { model: "m".into(), state: ModelReport::Ready(card()) });
    // The second row has waited too long by now; the first, waiting again since the loss, has not. Both come to light
    // with the credit.
    advance(Duration::from_secs(5)).await;
    bench.credit(&second, 0);
    let batch = second.run();
    assert_eq!(batch.rows.len(), 2, "the failed call's row is not among them");
    let items = vec![ok(0, &Bytes::from_static(b"zero")), ok(1, &Bytes::from_static(b"one"))];
    bench.say(&second, FromWorker::Items { batch: batch.batch, attempt: batch.attempt, items });
    bench.end(&second, &batch);
    assert!(matches!(outcome(&mut failing), Err(CallError::QueueTimeout { .. } | CallError::ModelNotReady { .. })));
    let answers = others.each_mut().map(|reply| outcome(reply).expect("answer").rows[0][0].data.clone());
    assert_eq!(answers, [Bytes::from_static(b"zero"), Bytes::from_static(b"one")]);
}
