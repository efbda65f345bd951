//! The driver as a function of events: no runtime but for its clock, no wire, scripted workers.

mod calls;
mod costs;
mod explain;
mod gpus;
mod models;
mod pools;
mod quarantine;
mod residency;
mod tokenizers;
mod traced;
mod workers;

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
use super::testing::Errands;
use super::*;
use crate::access::Scope;
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
    /// Of its calls.
    trace: Trace,
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
        let (around, errands) = Surroundings::of_test(registry.clone(), Metrics::new());
        let Errands { supervisor: told, artifacts: errands, costs: cost_errands } = errands;
        let driver = Driver::new(Limits::default(), Instant::now(), around);
        let mut bench =
            Self { driver, registry, told, errands, cost_errands, next_request: 1, trace: Trace::default() };
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

    /// The same of a pool.
    fn worker_of(&mut self, pool: &str, name: &str, epoch: u64) -> Scripted {
        let mut worker = self.connect_as(None, pool, name, epoch);
        self.hold_m(&mut worker);
        worker
    }

    /// The same on a GPU, if one is named.
    fn worker_on(&mut self, gpu: Option<&str>, name: &str, epoch: u64) -> Scripted {
        let mut worker = self.connect_on(gpu, name, epoch);
        self.hold_m(&mut worker);
        worker
    }

    fn hold_m(&mut self, worker: &mut Scripted) {
        assert!(matches!(worker.command(), ToWorker::Load { .. }));
        let ready = FromWorker::Model { model: "m".into(), state: ModelReport::Ready(card()) };
        self.say(worker, ready);
        self.credit(worker, 0);
    }

    fn connect(&mut self, name: &str, epoch: u64) -> Scripted {
        self.connect_on(None, name, epoch)
    }

    /// On a GPU, if one is named.
    fn connect_on(&mut self, gpu: Option<&str>, name: &str, epoch: u64) -> Scripted {
        self.connect_as(gpu, "default", name, epoch)
    }

    fn connect_as(&mut self, gpu: Option<&str>, pool: &str, name: &str, epoch: u64) -> Scripted {
        let epoch = Epoch(epoch);
        let (up, commands) = WorkerUp::of_test(epoch, name);
        let (device_class, gpu, pool) = ("cpu, 1 thread".into(), gpu.map(Into::into), pool.into());
        self.apply(Event::WorkerUp(WorkerUp { device_class, gpu, local: true, pool, ..up }));
        Scripted { epoch, commands }
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
            trace: self.trace.clone(),
            explain,
            scope: Scope::default(),
        };
        let row = |content: &u64| Row {
            columns: vec![Bytes::from(content.to_le_bytes().to_vec())],
            tokens: 1,
            truncated: false,
            options: RowOptions::default(),
        };
        let call = Call { model: "m".into(), stands_in_for: None, caller, rows: contents.iter().map(row).collect() };
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
        let (waited, compute) = (Duration::from_millis(1), Duration::from_millis(2));
        self.say(worker, FromWorker::BatchEnd { batch: batch.batch, attempt: batch.attempt, waited, compute });
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
        load: Default::default(),
        canary: None,
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
