//! What callers who ask are told of how it went, and what everybody's waits add up to.

use shoal_scheduler::WaitCause;

use super::*;
use crate::explain::{Explanation, Report};

impl Bench {
    /// A call of so many rows whose caller wants things explained.
    fn ask(&mut self, rows: usize, deadline: Option<Duration>) -> (Reply, Asked) {
        let first = self.next_request;
        let contents: Vec<u64> = (first..first + rows as u64).collect();
        self.ask_with(&contents, deadline)
    }

    fn ask_with(&mut self, contents: &[u64], deadline: Option<Duration>) -> (Reply, Asked) {
        let explain = Asked::yes();
        (self.call_asking(contents, deadline, explain.clone()), explain)
    }

    fn break_off(&mut self, worker: &Scripted, batch: &Batch, reason: BatchFailure) {
        let (batch, attempt) = (batch.batch, batch.attempt);
        self.say(worker, FromWorker::BatchFailed { batch, attempt, reason, detail: String::new() });
    }

    fn report(&mut self, model: Option<&str>, calls_max: usize) -> Report {
        let (done, mut told) = oneshot::channel();
        self.apply(Event::Explain { model: model.map(Into::into), calls_max, done });
        told.try_recv().expect("a report")
    }

    /// What all rows waited for so far, in milliseconds.
    fn waited(&self, cause: &str) -> f64 {
        let page = self.driver.around.metrics.encode().expect("page");
        let name = format!(r#"shoal_wait_seconds_total{{model="m",reason="{cause}"}} "#);
        let value = page.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok());
        (value.unwrap_or_else(|| panic!("no {name} on\n{page}")) * 1e3).round()
    }

    /// The same for whatever.
    fn waited_in_all(&self) -> f64 {
        WaitCause::ALL.map(|cause| self.waited(crate::explain::wait_name(cause))).iter().sum()
    }
}

fn explained(reply: &mut Reply) -> (Duration, Explanation) {
    let answer = outcome(reply).expect("an answer");
    let explanation = *answer.explanation.expect("it was asked for");
    assert_eq!(explanation.waited.total(), answer.queue_time, "the parts add up");
    assert_eq!(explanation.batches.len(), answer.batches.len(), "each batch is explained");
    (answer.queue_time, explanation)
}

fn millis(explanation: &Explanation) -> [u128; 5] {
    WaitCause::ALL.map(|cause| explanation.waited.waits.of(cause).as_millis())
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_what_its_last_row_waited_for_and_who_ran_it() {
    let mut bench = Bench::new();
    let (mut reply, _) = bench.ask(10, None);
    advance(Duration::from_millis(3)).await;
    let mut worker = bench.worker("w", 1);
    let first = worker.run();
    advance(Duration::from_millis(4)).await;
    bench.complete(&worker, &first);
    bench.credit(&worker, 0);
    let second = worker.run();
    advance(Duration::from_millis(5)).await;
    bench.complete(&worker, &second);
    let (queue_time, explanation) = explained(&mut reply);
    assert_eq!((queue_time, millis(&explanation)), (Duration::from_millis(7), [3, 0, 4, 0, 0]));
    assert_eq!(explanation.objective, Duration::from_millis(50));
    let ran: Vec<_> = explanation.batches.iter().map(|ran| (&*ran.worker, ran.taken.as_millis())).collect();
    assert_eq!(ran, [("w", 4), ("w", 5)]);
    // Eight rows for 3 ms, two for 7.
    assert_eq!((bench.waited("no_worker"), bench.waited("workers_busy")), (30.0, 8.0));
    let mut plain = bench.call(1);
    bench.credit(&worker, 0);
    let batch = worker.run();
    bench.complete(&worker, &batch);
    assert_eq!(outcome(&mut plain).expect("an answer").explanation, None, "nobody asked");
}

#[tokio::test(start_paused = true)]
async fn time_with_a_worker_that_was_lost_is_no_wait_for_another() {
    let mut bench = Bench::new();
    let mut lost = bench.worker("a", 1);
    let (mut reply, _) = bench.ask(2, None);
    lost.run();
    advance(Duration::from_millis(20)).await;
    bench.apply(Event::ProcessEnded { worker: "a".into(), cause: DownCause::Lost });
    advance(Duration::from_millis(5)).await;
    let mut other = bench.worker("b", 2);
    let batch = other.run();
    assert_eq!(batch.attempt, Attempt(2));
    advance(Duration::from_millis(1)).await;
    bench.complete(&other, &batch);
    let (queue_time, explanation) = explained(&mut reply);
    assert_eq!(queue_time, Duration::from_millis(25));
    assert_eq!((millis(&explanation), explanation.waited.failed), ([5, 0, 0, 0, 0], Duration::from_millis(20)));
    assert_eq!(bench.waited("no_worker"), 10.0, "two rows for 5 ms");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_goes_to_another_worker_at_once_waited_for_nobody() {
    let mut bench = Bench::new();
    let mut first = bench.worker("a", 1);
    let (mut reply, _) = bench.ask(1, None);
    let broken = first.run();
    let mut other = bench.worker("b", 2);
    advance(Duration::from_millis(20)).await;
    bench.break_off(&first, &broken, BatchFailure::Device);
    let again = other.run();
    advance(Duration::from_millis(1)).await;
    bench.complete(&other, &again);
    let (_, explanation) = explained(&mut reply);
    assert_eq!((explanation.waited.waits.total(), explanation.waited.failed.as_millis()), (Duration::ZERO, 20));
    assert_eq!(bench.waited("workers_busy"), 0.0);
}

/// A call of two rows with two workers, of which the first is slow with it; and another that waits for either.
async fn hedged() -> (Bench, [(Scripted, Batch); 2], [Reply; 2]) {
    let mut bench = Bench::new();
    let policy = PolicyConfig::Learned { wait_price: 0, waits_when_idle: false, on_late: OnLate::Serve };
    bench.configure(vec![ModelSettings { policy, ..settings("m") }]);
    let mut slow = bench.worker("a", 1);
    bench.teach(&mut slow).await;
    let (reply, _) = bench.ask(2, None);
    let first = slow.run();
    let mut other = bench.worker("b", 2);
    advance(Duration::from_millis(60)).await;
    bench.driver.tick(Instant::now());
    let hedge = other.run();
    let waiting = bench.call(1);
    (bench, [(slow, first), (other, hedge)], [reply, waiting])
}

#[tokio::test(start_paused = true)]
async fn a_row_whose_batch_fails_while_its_hedge_runs_does_not_wait() {
    let (mut bench, [(slow, first), (other, hedge)], [mut reply, _waiting]) = hedged().await;
    bench.break_off(&slow, &first, BatchFailure::Device);
    advance(Duration::from_millis(30)).await;
    bench.complete(&other, &hedge);
    let (_, explanation) = explained(&mut reply);
    assert_eq!((explanation.waited.total(), bench.waited_in_all()), (Duration::ZERO, 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_row_whose_batch_and_its_hedge_fail_one_after_the_other_was_with_workers_until_then() {
    for is_hedge_first in [false, true] {
        let (mut bench, [mut one, mut other], [mut reply, _waiting]) = hedged().await;
        if is_hedge_first {
            std::mem::swap(&mut one, &mut other);
        }
        bench.break_off(&one.0, &one.1, BatchFailure::Device);
        advance(Duration::from_millis(30)).await;
        bench.break_off(&other.0, &other.1, BatchFailure::Device);
        let mut workers = [one.0, other.0];
        let (_, explanation) = loop {
            workers.iter().for_each(|worker| bench.credit(worker, 0));
            for worker in &mut workers {
                while let Ok(command) = worker.commands.try_recv() {
                    if let ToWorker::Run(batch) = command {
                        bench.complete(worker, &batch);
                    }
                }
            }
            if !reply.is_empty() {
                break explained(&mut reply);
            }
        };
        let waited = (explanation.waited.waits.total(), explanation.waited.failed.as_millis());
        assert_eq!(waited, (Duration::ZERO, 90), "hedge first: {is_hedge_first}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_whose_hedge_fails_while_its_batch_runs_does_not_wait() {
    let (mut bench, [(slow, first), (other, hedge)], [mut reply, _waiting]) = hedged().await;
    bench.break_off(&other, &hedge, BatchFailure::Device);
    advance(Duration::from_millis(30)).await;
    bench.complete(&slow, &first);
    let (_, explanation) = explained(&mut reply);
    assert_eq!((explanation.waited.total(), bench.waited_in_all()), (Duration::ZERO, 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_let_in_is_never_said_to_be_refused_on_arrival() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let _running = bench.call(1);
    let batch = worker.run();
    // Its results come, and its batch does not end in time.
    let (mut reply, explain) = bench.ask(1, Some(Duration::from_millis(50)));
    advance(Duration::from_millis(20)).await;
    bench.complete(&worker, &batch);
    bench.credit(&worker, 0);
    let batch = worker.run();
    let _behind = bench.call(1);
    bench.say(
        &worker,
        FromWorker::Items { batch: batch.batch, attempt: batch.attempt, items: vec![ok(0, &Bytes::new())] },
    );
    advance(Duration::from_millis(30)).await;
    bench.driver.tick(Instant::now());
    assert_eq!(outcome(&mut reply).expect_err("late"), CallError::DeadlinePassed);
    let text = explain.refusal().expect("why").text();
    assert!(text.starts_with("Ended after it had waited 20.0 ms for busy workers. 1 row is queued for m"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn copies_of_a_poisonous_input_say_what_they_had_waited_for_when_they_were_ended() {
    let mut bench = Bench::new();
    let (mut first, mut second) = (bench.worker("a", 1), bench.worker("b", 2));
    let mut proven = bench.call_with(&[7], None);
    let batch = first.run();
    let (mut with_a_worker, running) = bench.ask_with(&[7], None);
    second.run();
    let (mut in_the_queue, queued) = bench.ask_with(&[1, 7], None);
    advance(Duration::from_millis(20)).await;
    bench.break_off(&first, &batch, BatchFailure::Item);
    for reply in [&mut proven, &mut with_a_worker, &mut in_the_queue] {
        outcome(reply).expect_err("poison");
    }
    let started = |asked: &Asked, start: &str| {
        let text = asked.refusal().expect("why").text();
        assert!(text.starts_with(start), "{text}");
    };
    started(&running, "Ended at once. ");
    started(&queued, "Ended after it had waited 20.0 ms for busy workers. ");
    // One that comes later is not let in.
    let (mut late, asked) = bench.ask_with(&[7], None);
    assert!(matches!(outcome(&mut late), Err(CallError::Quarantined { .. })));
    started(&asked, "Refused on arrival: ");
    assert_eq!(bench.report(None, 0).models[0].refusals, [("quarantined", 3), ("poison", 1)]);
}

#[tokio::test(start_paused = true)]
async fn calls_for_a_model_that_cannot_be_loaded_are_told_to_operators() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let failed = FromWorker::Model { model: "m".into(), state: ModelReport::Failed("no such file".into()) };
    bench.say(&worker, failed);
    let (mut reply, explain) = bench.ask(1, None);
    assert!(matches!(outcome(&mut reply), Err(CallError::ModelNotReady { .. })));
    assert_eq!(bench.report(None, 0).models[0].refusals, [("model_not_ready", 1)]);
    assert_eq!(explain.refusal().map(|refusal| (refusal.reason, refusal.on_arrival)), Some(("model_not_ready", true)));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_later_says_what_it_waited_for_and_is_counted() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let _running = bench.call(1);
    worker.run();
    let (mut reply, explain) = bench.ask(2, Some(Duration::from_millis(30)));
    advance(Duration::from_millis(30)).await;
    bench.driver.tick(Instant::now());
    assert_eq!(outcome(&mut reply).expect_err("late"), CallError::DeadlinePassed);
    let refusal = explain.refusal().expect("why");
    assert_eq!(refusal.reason, "deadline_passed");
    let waited = refusal.waited.expect("it waited");
    assert_eq!((waited.total(), waited.waits.of(WaitCause::WorkersBusy).as_millis()), (Duration::from_millis(30), 30));
    assert_eq!(bench.waited("workers_busy"), 60.0, "two rows for 30 ms");
    let report = bench.report(Some("m"), 0);
    assert_eq!(report.models[0].refusals, [("deadline_passed", 1)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_on_arrival_says_what_stood_before_it() {
    let mut bench = Bench::new();
    bench.configure(vec![ModelSettings { queue_requests_max: NonZeroU32::new(3).expect("positive"), ..settings("m") }]);
    let _worker = bench.worker("w", 1);
    let _running = bench.call(1);
    let _waiting = bench.call(2);
    let (mut reply, explain) = bench.ask(2, None);
    let error = outcome(&mut reply).expect_err("full");
    assert!(matches!(error, CallError::QueueFull { limit: QueueLimit::Model, .. }), "{error}");
    let refusal = explain.refusal().expect("why");
    let found = refusal.found.expect("a model");
    assert_eq!((refusal.reason, refusal.waited, found.queued, found.workers), ("model_queue_full", None, 2, 1));
    assert!(refusal.on_arrival);
    assert_eq!(found.because, WaitCause::WorkersBusy);
}

#[tokio::test(start_paused = true)]
async fn a_report_has_what_waits_and_what_runs() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let _running = bench.call(8);
    worker.run();
    advance(Duration::from_millis(2)).await;
    let _waiting = bench.call(1);
    let _later = bench.call_until(3, Some(Duration::from_millis(40)));
    advance(Duration::from_millis(5)).await;
    let report = bench.report(None, 10);
    let [model] = report.models.as_slice() else { panic!("one model: {report:?}") };
    assert_eq!((model.queued.on_time, model.workers), ([0, 4, 0], 1));
    assert_eq!(
        (model.oldest_age, model.next_due_in),
        (Some(Duration::from_millis(5)), Some(Duration::from_millis(35)))
    );
    assert_eq!((model.waits_for, model.recent_batches, model.recent_rows), (Some(WaitCause::WorkersBusy), 1, 8));
    assert_eq!(model.closes, [("drained", 1)]);
    let [w] = report.workers.as_slice() else { panic!("one worker: {report:?}") };
    assert_eq!((&*w.name, w.running.len(), w.running[0].rows), ("w", 1, 8));
    assert_eq!(w.running[0].running_for, Some(Duration::from_millis(7)));
    let calls: Vec<_> = report.calls.iter().map(|call| (call.rows, call.position, call.deadline_in)).collect();
    // Due first is who has a deadline; told first who waits longest.
    assert_eq!(calls, [(1, 3, None), (3, 0, Some(Duration::from_millis(35)))]);
    assert_eq!((report.calls[0].waited.total(), report.open_calls), (Duration::from_millis(5), 3));
    assert_eq!(w.free_in, None, "nothing is known of what it costs");
    let one = bench.report(None, 1);
    assert_eq!((one.calls.len(), one.open_calls), (1, 3));
    assert_eq!(bench.report(Some("gone"), 1).models.len(), 0);
    bench.configure(vec![settings("m"), settings("n")]);
    let of = |report: Report| (report.models.len(), report.open_calls);
    assert_eq!((of(bench.report(Some("m"), 0)), of(bench.report(Some("n"), 0))), ((1, 3), (1, 0)));
}
