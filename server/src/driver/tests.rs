//! The driver as a function of events: no runtime but for its clock, no wire, scripted workers.

mod costs;
mod explain;
mod gpus;
mod quarantine;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_scheduler::{
    Attempt, BatchFailure, BatchId, Budget, Class, CloseReason, DownCause, Epoch, GroupId, Limits, OnLate,
    PolicyConfig, QueueLimit, Slot,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, advance};

use super::event::ItemError;
use super::*;
use crate::call::{Answer, Call, Caller, DataType, Row, RowOptions, Tensor, Trace};
use crate::card::{Card, TensorSpec};
use crate::explain::Asked;
use crate::registry::ModelState;
use crate::tokenize::Vocabulary;

/// A driver with what surrounds it within reach.
struct Bench {
    driver: Driver,
    registry: Registry,
    told: mpsc::UnboundedReceiver<ToSupervisor>,
    errands: mpsc::UnboundedReceiver<ArtifactWanted>,
    cost_errands: mpsc::UnboundedReceiver<CostErrand>,
    next_request: u64,
}

/// A worker whose every answer the test writes.
struct Scripted {
    epoch: Epoch,
    commands: mpsc::UnboundedReceiver<ToWorker>,
}

type Reply = oneshot::Receiver<Result<Answer, CallError>>;

impl Bench {
    fn new() -> Self {
        let registry = Registry::default();
        let (supervisor, told) = mpsc::unbounded_channel();
        let (artifacts, errands) = mpsc::unbounded_channel();
        let (costs, cost_errands) = mpsc::unbounded_channel();
        let around = Surroundings { registry: registry.clone(), metrics: Metrics::new(), supervisor, artifacts, costs };
        let driver = Driver::new(Limits::default(), Instant::now(), around);
        let mut bench = Self { driver, registry, told, errands, cost_errands, next_request: 1 };
        bench.configure(vec![settings("m")]);
        bench
    }

    fn configure(&mut self, models: Vec<ModelSettings>) {
        let (done, _) = oneshot::channel();
        self.apply(Event::Configure { models, done });
    }

    /// The next worker whose process is to be replaced.
    fn replaced(&mut self) -> Arc<str> {
        loop {
            match self.told.try_recv().expect("a replacement") {
                ToSupervisor::Replace(name) => return name,
                ToSupervisor::Useful(_) => {}
            }
        }
    }

    fn apply(&mut self, event: Event) {
        self.driver.apply(Instant::now(), event);
    }

    fn say(&mut self, worker: &Scripted, said: FromWorker) {
        self.apply(Event::Worker { epoch: worker.epoch, said });
    }

    /// Connects a local worker that holds `m` and can take one batch.
    fn worker(&mut self, name: &str, epoch: u64) -> Scripted {
        self.worker_on(None, name, epoch)
    }

    /// The same on a GPU, if one is named.
    fn worker_on(&mut self, gpu: Option<&str>, name: &str, epoch: u64) -> Scripted {
        let mut worker = self.connect_on(gpu, name, epoch);
        assert!(matches!(worker.command(), ToWorker::Load { .. }));
        let ready = FromWorker::Model { model: "m".into(), state: ModelReport::Ready(card()) };
        self.say(&worker, ready);
        self.credit(&worker, 0);
        worker
    }

    fn connect(&mut self, name: &str, epoch: u64) -> Scripted {
        self.connect_on(None, name, epoch)
    }

    /// On a GPU, if one is named.
    fn connect_on(&mut self, gpu: Option<&str>, name: &str, epoch: u64) -> Scripted {
        let (commands, commands_in) = mpsc::unbounded_channel();
        let epoch = Epoch(epoch);
        self.apply(Event::WorkerUp(WorkerUp {
            epoch,
            name: name.into(),
            device: "cpu".into(),
            device_class: "cpu, 1 thread".into(),
            gpu: gpu.map(Into::into),
            local: true,
            offers: Vec::new(),
            commands,
        }));
        Scripted { epoch, commands: commands_in }
    }

    fn credit(&mut self, worker: &Scripted, slot: u32) {
        let budget = Budget { rows: 8, tokens: 1000, bytes: 1 << 20 };
        self.say(worker, FromWorker::Credit { slot: Slot(slot), budget });
    }

    fn call(&mut self, rows: usize) -> Reply {
        self.call_until(rows, None)
    }

    /// Every row is another than all before.
    fn call_until(&mut self, rows: usize, deadline: Option<Duration>) -> Reply {
        let first = self.next_request;
        let contents: Vec<u64> = (first..first + rows as u64).collect();
        self.call_with(&contents, deadline)
    }

    fn call_with(&mut self, contents: &[u64], deadline: Option<Duration>) -> Reply {
        self.call_asking(contents, deadline, Asked::default())
    }

    fn call_asking(&mut self, contents: &[u64], deadline: Option<Duration>, explain: Asked) -> Reply {
        let (reply, answer) = oneshot::channel();
        let first = self.next_request;
        self.next_request += contents.len() as u64;
        let caller = Caller {
            tenant: "t".into(),
            class: Class::Standard,
            deadline: deadline.map(|left| Instant::now() + left),
            trace: Trace::default(),
            explain,
        };
        let row = |content: &u64| Row {
            columns: vec![Bytes::from(content.to_le_bytes().to_vec())],
            tokens: 1,
            truncated: false,
            options: RowOptions::default(),
        };
        let call = Call { model: "m".into(), caller, rows: contents.iter().map(row).collect() };
        self.apply(Event::Submit { first, call, reply });
        answer
    }

    /// Answers every row of a batch with the row's own bytes, and ends it.
    fn complete(&mut self, worker: &Scripted, batch: &Batch) {
        let items = (0..).zip(&batch.rows).map(|(index, row)| ok(index, &row.columns[0])).collect();
        self.say(worker, FromWorker::Items { batch: batch.batch, attempt: batch.attempt, items });
        self.end(worker, batch);
    }

    fn end(&mut self, worker: &Scripted, batch: &Batch) {
        let compute = Duration::from_millis(2);
        self.say(worker, FromWorker::BatchEnd { batch: batch.batch, attempt: batch.attempt, compute });
    }

    /// Has a worker answer so many calls of two rows in 10 ms each that nobody doubts how long they take.
    async fn teach(&mut self, worker: &mut Scripted) {
        for _ in 0..60 {
            let mut reply = self.call(2);
            let batch = worker.run();
            advance(Duration::from_millis(10)).await;
            self.complete(worker, &batch);
            self.credit(worker, 0);
            outcome(&mut reply).expect("an answer");
        }
    }
}

impl Scripted {
    fn command(&mut self) -> ToWorker {
        self.commands.try_recv().expect("a command")
    }

    /// The first batch, whatever it was told to load before.
    fn run_behind_loads(&mut self) -> Batch {
        loop {
            match self.command() {
                ToWorker::Load { .. } => {}
                ToWorker::Run(batch) => return batch,
                other => panic!("not a run: {other:?}"),
            }
        }
    }

    fn run(&mut self) -> Batch {
        match self.command() {
            ToWorker::Run(batch) => batch,
            other => panic!("not a run: {other:?}"),
        }
    }
}

fn settings(name: &str) -> ModelSettings {
    ModelSettings {
        name: name.into(),
        place: Some(crate::models::Place::Echo),
        dtype: "auto".into(),
        slo: Duration::from_millis(50),
        is_slo_stated: true,
        queue_time_max: Duration::from_secs(10),
        queue_requests_max: NonZeroU32::new(100).expect("positive"),
        batch_time_max: Duration::from_secs(30),
        batch_rows_max: NonZeroU32::new(64).expect("positive"),
        batch_tokens_max: NonZeroU32::new(4096).expect("positive"),
        policy: PolicyConfig::Fixed,
    }
}

fn card() -> Arc<Card> {
    let spec = |name: &str| TensorSpec { name: name.into(), data_type: DataType::Bytes, shape: vec![-1] };
    Arc::new(Card {
        architecture: "echo".into(),
        backend: "echo".into(),
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        ..Card::testing("m")
    })
}

fn ok(index: u32, data: &Bytes) -> ItemResult {
    let tensor = Tensor { name: "y".into(), data_type: DataType::Bytes, shape: vec![8], data: data.clone() };
    ItemResult { index, result: Ok(vec![tensor]) }
}

fn outcome(reply: &mut Reply) -> Result<Answer, CallError> {
    reply.try_recv().expect("an outcome")
}

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
    bench.say(&worker, FromWorker::BatchEnd { batch, attempt, compute: Duration::from_millis(2) });
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
    let caller = Caller { tenant, class: Class::Standard, deadline: None, trace, explain };
    let row = Row { columns: vec![Bytes::new()], tokens: 1, truncated: false, options: RowOptions::default() };
    bench.apply(Event::Submit { first: 1, call: Call { model: "m".into(), caller, rows: vec![row] }, reply });
    assert!(worker.commands.try_recv().is_err());
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
async fn a_model_whose_workers_are_gone_is_unloaded_and_keeps_its_card() {
    let mut bench = Bench::new();
    let _worker = bench.worker("w", 1);
    assert_eq!(bench.registry.model("m").expect("model").state, ModelState::Ready);
    bench.apply(Event::ProcessEnded { worker: "w".into(), cause: DownCause::Lost });
    let view = bench.registry.model("m").expect("model");
    assert_eq!(view.state, ModelState::Unloaded);
    assert!(view.card.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_model_is_ready_no_longer_once_it_is_to_be_unloaded_and_again_when_a_worker_says_so_anew() {
    let mut bench = Bench::new();
    let mut worker = bench.worker("w", 1);
    let want = |wanted| Event::Want { model: "m".into(), wanted, done: oneshot::channel().0 };
    let state = |bench: &Bench| bench.registry.model("m").expect("model").state.clone();
    bench.apply(want(false));
    assert_eq!(state(&bench), ModelState::Unloaded);
    assert!(matches!(worker.command(), ToWorker::Unload { .. }));
    // The worker has not said yet that it did.
    bench.apply(want(true));
    assert_eq!(state(&bench), ModelState::Unloaded);
    for report in [ModelReport::Unloaded, ModelReport::Loading, ModelReport::Ready(card())] {
        assert_ne!(state(&bench), ModelState::Ready);
        bench.say(&worker, FromWorker::Model { model: "m".into(), state: report });
    }
    assert!(matches!(worker.command(), ToWorker::Load { .. }));
    assert_eq!(state(&bench), ModelState::Ready);
}

/// Reports `m` as a text model with a tokenizer of this hash.
fn text_model(bench: &mut Bench, worker: &Scripted, sha256: &str) {
    let card = Card { tokenizer_sha256: sha256.into(), tokens_max: 16, ..(*card()).clone() };
    bench.say(worker, FromWorker::Model { model: "m".into(), state: ModelReport::Ready(Arc::new(card)) });
}

fn vocabulary(sha256: &str) -> Vocabulary {
    let json = br#"{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}"#;
    Vocabulary::parse(sha256, json).expect("a tokenizer")
}

fn missing() -> Result<Vocabulary, ArtifactError> {
    Err(ArtifactError::Missing("no such file".into()))
}

#[tokio::test(start_paused = true)]
async fn a_text_model_is_ready_once_its_tokenizer_is_there() {
    let mut bench = Bench::new();
    let mut worker = bench.connect("w", 1);
    assert!(matches!(worker.command(), ToWorker::Load { .. }));
    text_model(&mut bench, &worker, "ab");
    assert_eq!(bench.registry.model("m").expect("model").state, ModelState::Loading);
    assert!(matches!(bench.errands.try_recv(), Ok(ArtifactWanted::Read { sha256 }) if sha256 == "ab"));
    bench.apply(Event::Tokenizer { sha256: "ab".into(), result: missing() });
    assert!(matches!(worker.command(), ToWorker::FetchArtifact { sha256 } if sha256 == "ab"));
    bench.say(&worker, FromWorker::Artifact { sha256: "ab".into(), result: Ok(Bytes::from_static(b"json")) });
    assert!(matches!(bench.errands.try_recv(), Ok(ArtifactWanted::Keep { sha256, .. }) if sha256 == "ab"));
    bench.apply(Event::Tokenizer { sha256: "ab".into(), result: Ok(vocabulary("ab")) });
    assert_eq!(bench.registry.model("m").expect("model").state, ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_tokenizer_is_looked_for_once_however_many_workers_report_its_model() {
    let mut bench = Bench::new();
    for (name, epoch) in [("a", 1), ("b", 2), ("c", 3)] {
        let worker = bench.connect(name, epoch);
        text_model(&mut bench, &worker, "ab");
    }
    assert!(bench.errands.try_recv().is_ok());
    assert!(bench.errands.try_recv().is_err(), "one search is enough");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_give_its_tokenizer_or_goes_is_followed_by_the_next() {
    let mut bench = Bench::new();
    let mut workers: Vec<Scripted> = [("a", 1), ("b", 2), ("c", 3)]
        .map(|(name, epoch)| {
            let mut worker = bench.connect(name, epoch);
            assert!(matches!(worker.command(), ToWorker::Load { .. }));
            text_model(&mut bench, &worker, "ab");
            worker
        })
        .into();
    bench.apply(Event::Tokenizer { sha256: "ab".into(), result: missing() });
    assert!(matches!(workers[0].command(), ToWorker::FetchArtifact { .. }));
    let busy = FromWorker::Artifact { sha256: "ab".into(), result: Err("busy".into()) };
    bench.say(&workers[0], busy);
    assert!(matches!(workers[1].command(), ToWorker::FetchArtifact { .. }));
    bench.apply(Event::ProcessEnded { worker: "b".into(), cause: DownCause::Lost });
    assert!(matches!(workers[2].command(), ToWorker::FetchArtifact { .. }));
    let unasked = FromWorker::Artifact { sha256: "ab".into(), result: Ok(Bytes::new()) };
    bench.say(&workers[0], unasked);
    let _read = bench.errands.try_recv();
    assert!(bench.errands.try_recv().is_err(), "only the worker asked is listened to");
    bench.apply(Event::Tokenizer { sha256: "ab".into(), result: Ok(vocabulary("ab")) });
    assert_eq!(bench.registry.model("m").expect("model").state, ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn another_model_under_the_same_name_never_gets_the_old_tokenizer() {
    let mut bench = Bench::new();
    let worker = bench.connect("w", 1);
    text_model(&mut bench, &worker, "ab");
    bench.apply(Event::Tokenizer { sha256: "ab".into(), result: Ok(vocabulary("ab")) });
    assert!(bench.registry.model("m").expect("model").tokenizer.is_some());
    text_model(&mut bench, &worker, "cd");
    let view = bench.registry.model("m").expect("model");
    assert!(view.tokenizer.is_none());
    assert_eq!(view.state, ModelState::Loading);
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

#[tokio::test(start_paused = true)]
async fn a_model_that_failed_to_load_is_refused_at_once_with_the_reason() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    let failed = FromWorker::Model { model: "m".into(), state: ModelReport::Failed("no such file".into()) };
    bench.say(&worker, failed);
    let error = outcome(&mut bench.call(1)).expect_err("error");
    assert_eq!(error, CallError::ModelNotReady { model: "m".into(), reason: "no such file".into() });
}

#[tokio::test(start_paused = true)]
async fn a_call_for_a_model_out_of_service_is_refused() {
    let mut bench = Bench::new();
    let mut queued = bench.call(1);
    bench.configure(Vec::new());
    assert_eq!(outcome(&mut queued).expect_err("error"), CallError::ModelRemoved { model: "m".into() });
    assert!(matches!(outcome(&mut bench.call(1)), Err(CallError::UnknownModel { .. })));
}
