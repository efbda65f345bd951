//! What workers do and what becomes of it: their batches, their credits, their ends.

use shoal_scheduler::{Dispatch, Output};

use super::*;

#[tokio::test(start_paused = true)]
async fn weights_that_came_onto_a_device_are_counted_apart() {
    let mut bench = Bench::new();
    bench.configure(vec![settings("m"), settings("n")]);
    let mut worker = bench.worker("a", 1);
    let mut reply = bench.call(1);
    let Batch { batch, attempt, .. } = worker.run_behind_loads();
    advance(Duration::from_millis(32)).await;
    // Of what is not configured nothing is known.
    let absent: Vec<Arc<str>> = vec!["n".into(), "nobody".into()];
    let taken = Duration::from_millis(30);
    bench.say(&worker, FromWorker::Weights { absent });
    bench.say(&worker, FromWorker::PagedIn { batch, attempt, taken });
    bench.say(&worker, FromWorker::PagedIn { batch: BatchId(99), attempt, taken });
    bench.say(&worker, FromWorker::Items { batch, attempt, items: vec![ok(0, &Bytes::new())] });
    bench.say(
        &worker,
        FromWorker::BatchEnd { batch, attempt, waited: Duration::ZERO, compute: Duration::from_millis(2) },
    );
    outcome(&mut reply).expect("an answer");
    let page = bench.driver.around.metrics.encode().expect("page");
    for line in [
        "shoal_model_page_ins_total{model=\"m\"} 1",
        "shoal_model_page_in_seconds_total{model=\"m\"} 0.03",
        "shoal_compute_duration_seconds_sum{model=\"m\"} 0.002",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_batch_is_answered_by_its_hedge_and_the_first_worker_may_say_what_it_likes() {
    let mut bench = Bench::new();
    let policy = PolicyConfig::Learned { wait_price: 0, waits_when_idle: false, on_late: OnLate::Serve };
    bench.configure(vec![ModelSettings { policy, ..settings("m") }]);
    let mut slow = bench.worker("a", 1);
    bench.teach(&mut slow).await;
    let mut reply = bench.call(2);
    let first = slow.run();
    // Had it been there before, the call would have been spread over both.
    let mut other = bench.worker("b", 2);
    // One row is there in time.
    let items = vec![ok(0, &first.rows[0].columns[0])];
    bench.say(&slow, FromWorker::Items { batch: first.batch, attempt: first.attempt, items });
    advance(Duration::from_millis(25)).await;
    bench.driver.tick(Instant::now());
    let hedge = other.run();
    assert_eq!((hedge.rows.len(), hedge.attempt), (1, Attempt(2)));
    assert_eq!(hedge.rows[0].columns, first.rows[1].columns, "the payload is still there");
    advance(Duration::from_millis(3)).await;
    bench.complete(&other, &hedge);
    assert!(matches!(slow.command(), ToWorker::Cancel { batch, items } if batch == first.batch && items == [1]));
    assert!(reply.try_recv().is_err(), "its first row's batch has not ended");
    bench.end(&slow, &first);
    let answer = outcome(&mut reply).expect("an answer");
    let closes: Vec<_> = answer.batches.iter().map(|batch| (batch.close, batch.own_rows)).collect();
    assert_eq!(closes, [(CloseReason::Drained, 1), (CloseReason::Hedged, 1)]);
    bench.credit(&slow, 0);

    // The second time nothing of it is there in time.
    bench.teach(&mut slow).await;
    let mut reply = bench.call(2);
    let first = slow.run();
    bench.credit(&other, 0);
    advance(Duration::from_millis(60)).await;
    bench.driver.tick(Instant::now());
    let hedge = other.run();
    advance(Duration::from_millis(10)).await;
    bench.complete(&other, &hedge);
    let answer = outcome(&mut reply).expect("an answer that does not wait for the slow one");
    assert_eq!(answer.rows.len(), 2);
    assert_eq!(answer.batches.iter().map(|batch| batch.close).collect::<Vec<_>>(), [CloseReason::Hedged]);
    bench.complete(&slow, &first);
    let page = bench.driver.around.metrics.encode().expect("page");
    assert!(page.contains(r#"shoal_hedged_batches_total{model="m"} 2"#), "{page}");
}

/// Or a worker would take idle hours for a slow link, and ask for batches before it can run them.
#[tokio::test(start_paused = true)]
async fn a_batch_says_how_long_its_credit_was_held_for_want_of_work() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    advance(Duration::from_millis(7)).await;
    let _reply = bench.call(10);
    let first = worker.run();
    assert_eq!(first.held, Duration::from_millis(7));
    bench.complete(&worker, &first);
    advance(Duration::from_millis(3)).await;
    bench.credit(&worker, 0);
    assert_eq!(worker.run().held, Duration::ZERO, "two rows were waiting for it");
}

#[tokio::test(start_paused = true)]
async fn a_killed_worker_costs_its_calls_an_attempt_and_nothing_else() {
    let mut bench = Bench::new();
    let mut first = bench.worker("w", 1);
    let mut reply = bench.call(1);
    let _lost = first.run();
    bench.apply(Event::ProcessEnded { worker: "w".into(), cause: DownCause::Lost });
    let mut second = bench.worker("w", 2);
    let batch = second.run();
    assert_eq!(batch.attempt, Attempt(2));
    bench.complete(&second, &batch);
    let answer = outcome(&mut reply).expect("answer");
    assert_eq!(answer.batches.last().map(|batch| batch.attempt), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_broken_link_waits_for_the_process_to_show_how_it_ended() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let mut reply = bench.call(1);
    let _lost = worker.run();
    bench.say(&worker, FromWorker::Gone { left: false, reason: "broken".into() });
    assert!(reply.try_recv().is_err());
    // It was alone in its batch, and the process fell over by itself: it is the culprit.
    bench.apply(Event::ProcessEnded { worker: "w".into(), cause: DownCause::Crashed });
    assert_eq!(outcome(&mut reply).expect_err("error"), CallError::Poison { field: "[0]".into() });
}

#[tokio::test(start_paused = true)]
async fn a_link_that_broke_without_a_verdict_counts_as_lost_in_bounded_time() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let _reply = bench.call(1);
    let _lost = worker.run();
    bench.say(&worker, FromWorker::Gone { left: false, reason: "broken".into() });
    let mut other = bench.worker("v", 2);
    assert!(other.commands.try_recv().is_err(), "the first worker may still be there");
    advance(Duration::from_secs(1)).await;
    bench.driver.tick(Instant::now());
    assert_eq!(other.run().attempt, Attempt(2));
    assert_eq!(&*bench.replaced(), "w");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_local_worker_is_replaced() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let _reply = bench.call(2);
    let _batch = worker.run();
    advance(Duration::from_secs(31)).await;
    bench.driver.tick(Instant::now());
    assert_eq!(&*bench.replaced(), "w");
}

#[tokio::test(start_paused = true)]
async fn a_worker_can_say_nothing_about_anothers_batch() {
    let mut bench = Bench::new();
    let mut holder = bench.worker("w", 1);
    let mut reply = bench.call(1);
    let batch = holder.run();
    let liar = bench.worker("v", 2);
    bench.end(&liar, &batch);
    let items = vec![ok(0, &Bytes::from_static(b"wrong"))];
    bench.say(&liar, FromWorker::Items { batch: batch.batch, attempt: batch.attempt, items });
    assert!(reply.try_recv().is_err());
    bench.complete(&holder, &batch);
    assert_ne!(outcome(&mut reply).expect("answer").rows[0][0].data, Bytes::from_static(b"wrong"));
}

/// Who gives turns would wait for one, and so would the other servers that were given it.
#[tokio::test(start_paused = true)]
async fn a_batch_of_a_model_that_is_gone_is_answered_with_a_pass_and_over() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let _reply = bench.call(1);
    let batch = worker.run();
    let flight = bench.driver.batches.remove(&batch.batch).expect("it was sent");
    let running = |bench: &Bench| bench.driver.core.batch_report(batch.batch).is_some();
    assert!(running(&bench));
    let gone = Dispatch { model: ModelId(99), ..flight.dispatch };
    let now = bench.driver.stamp(Instant::now());
    bench.driver.perform(now, Output::Dispatch(gone), &mut None);
    assert!(matches!(worker.command(), ToWorker::Pass { slot: Slot(0) }));
    bench.driver.tick(Instant::now());
    assert!(!running(&bench), "the core waits for nothing");
}
