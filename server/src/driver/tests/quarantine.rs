//! Inputs proven poison: refused when they come again, for as long as that is right.

use super::*;

/// What the culprit's input holds.
const CULPRIT: u64 = 7777;

impl Bench {
    /// A call with the culprit's input.
    fn culprit(&mut self) -> Reply {
        self.call_with(&[CULPRIT], None)
    }

    /// Proves the culprit's input, and gives the worker a credit again.
    fn prove(&mut self, worker: &mut Scripted) {
        let mut culprit = self.culprit();
        self.fail(worker, BatchFailure::Item);
        assert_eq!(outcome(&mut culprit).expect_err("error"), CallError::Poison { field: "[0]".into() });
        self.credit(worker, 0);
    }

    /// Has the worker's next batch fail.
    fn fail(&mut self, worker: &mut Scripted, reason: BatchFailure) {
        let Batch { batch, attempt, .. } = worker.run();
        self.say(worker, FromWorker::BatchFailed { batch, attempt, reason, detail: "boom".into() });
    }

    /// Whether a call with the culprit's input reaches the worker.
    fn reaches(&mut self, worker: &mut Scripted) -> bool {
        let _reply = self.culprit();
        match worker.commands.try_recv() {
            Ok(ToWorker::Run(batch)) => {
                self.complete(worker, &batch);
                self.credit(worker, 0);
                true
            }
            Ok(other) => panic!("not a run: {other:?}"),
            Err(_) => false,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn poison_that_comes_again_is_refused_without_a_worker() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    bench.prove(&mut worker);
    advance(Duration::from_secs(12)).await;
    let mut again = bench.call_with(&[1, CULPRIT], None);
    let left = Duration::from_secs(588);
    let expected = CallError::Quarantined { field: "[1]".into(), held: Duration::from_secs(12), left };
    assert_eq!(outcome(&mut again).expect_err("error"), expected);
    assert!(worker.commands.try_recv().is_err(), "it reached the worker");
    assert_eq!(bench.driver.calls.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_input_that_ends_its_worker_alone_is_held_over_the_workers_lives() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let mut culprit = bench.culprit();
    let _batch = worker.run();
    bench.apply(Event::ProcessEnded { worker: "w".into(), cause: DownCause::Crashed });
    assert_eq!(outcome(&mut culprit).expect_err("error"), CallError::Poison { field: "[0]".into() });
    let mut next = bench.worker("w", 2);
    assert!(!bench.reaches(&mut next));
}

/// What comes of an input under which two workers' GPUs break, one after the other.
fn breaking(gpus: [Option<&str>; 2]) -> Option<CallError> {
    let mut bench = Bench::new();
    let mut one = bench.worker_on(gpus[0], "one", 1);
    let mut culprit = bench.culprit();
    let _batch = one.run();
    bench.apply(Event::ProcessEnded { worker: "one".into(), cause: DownCause::DeviceBroke });
    let mut other = bench.worker_on(gpus[1], "other", 2);
    let _batch = other.run();
    bench.apply(Event::ProcessEnded { worker: "other".into(), cause: DownCause::DeviceBroke });
    culprit.try_recv().ok().map(|outcome| outcome.expect_err("error"))
}

#[tokio::test(start_paused = true)]
async fn an_input_is_guilty_when_two_gpus_broke_under_it_and_not_one_twice() {
    let poison = Some(CallError::Poison { field: "[0]".into() });
    assert_eq!(breaking([Some("GPU-1"), Some("GPU-2")]), poison);
    assert_eq!(breaking([Some("GPU-1"), Some("GPU-1")]), None, "it is tried elsewhere");
    assert_eq!(breaking([None, None]), poison, "who does not say has one of its own");
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_its_own_sake_or_for_memory_is_not_held() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let mut large = bench.culprit();
    bench.fail(&mut worker, BatchFailure::OutOfMemory);
    assert_eq!(outcome(&mut large).expect_err("error"), CallError::OutOfMemory { field: "[0]".into() });
    bench.credit(&worker, 0);
    let mut bad = bench.culprit();
    let batch = worker.run();
    let items = vec![ItemResult { index: 0, result: Err(ItemError::Input("no".into())) }];
    bench.say(&worker, FromWorker::Items { batch: batch.batch, attempt: batch.attempt, items });
    bench.end(&worker, &batch);
    assert!(matches!(outcome(&mut bad), Err(CallError::Item { .. })));
    bench.credit(&worker, 0);
    assert!(bench.reaches(&mut worker));
}

#[tokio::test(start_paused = true)]
async fn a_killed_worker_puts_nothing_in_quarantine() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let mut reply = bench.culprit();
    for life in 2..=4 {
        let _lost = worker.run();
        bench.apply(Event::ProcessEnded { worker: "w".into(), cause: DownCause::Lost });
        worker = bench.worker("w", life);
    }
    assert_eq!(outcome(&mut reply).expect_err("error"), CallError::WorkerLost { attempts: 3 });
    assert!(bench.reaches(&mut worker));
}

#[tokio::test(start_paused = true)]
async fn copies_that_wait_are_refused_once_one_is_proven() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let mut proven = bench.culprit();
    let mut copies = [bench.culprit(), bench.call_with(&[1, CULPRIT], None)];
    bench.fail(&mut worker, BatchFailure::Item);
    assert!(matches!(outcome(&mut proven), Err(CallError::Poison { .. })));
    for copy in &mut copies {
        assert!(matches!(outcome(copy), Err(CallError::Quarantined { .. })));
    }
    bench.credit(&worker, 0);
    assert!(worker.commands.try_recv().is_err(), "a copy reached the worker");
}

#[tokio::test(start_paused = true)]
async fn an_input_is_tried_again_after_ten_minutes() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    bench.prove(&mut worker);
    advance(Duration::from_secs(599)).await;
    assert!(!bench.reaches(&mut worker));
    advance(Duration::from_secs(1)).await;
    assert!(bench.reaches(&mut worker));
}

#[tokio::test(start_paused = true)]
async fn another_model_under_the_name_starts_with_none_and_a_reload_of_the_same_does_not() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    bench.prove(&mut worker);
    let report = |bench: &mut Bench, worker: &Scripted, card: Card| {
        bench.say(worker, FromWorker::Model { model: "m".into(), state: ModelReport::Ready(Arc::new(card)) });
    };
    let slower = Card { smallest_batch: Duration::from_millis(9), ..(*card()).clone() };
    report(&mut bench, &worker, slower);
    assert!(!bench.reaches(&mut worker));
    let other = Card { weights_sha256: "ab".into(), ..(*card()).clone() };
    report(&mut bench, &worker, other);
    assert!(bench.reaches(&mut worker));
}

#[tokio::test(start_paused = true)]
async fn unloading_a_model_lets_its_inputs_go() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    bench.prove(&mut worker);
    for wanted in [false, true] {
        let (done, _) = oneshot::channel();
        bench.apply(Event::Want { model: "m".into(), wanted, done });
    }
    for state in [ModelReport::Unloaded, ModelReport::Ready(card())] {
        bench.say(&worker, FromWorker::Model { model: "m".into(), state });
    }
    while worker.commands.try_recv().is_ok() {}
    bench.credit(&worker, 0);
    assert!(bench.reaches(&mut worker));
}
