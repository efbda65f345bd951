//! Each test says one thing the scheduler does. The [`Stage`] plays driver and checks the invariants after every input.

mod admission;
mod apart;
mod calls;
mod deadlines;
mod dispatch;
mod drain;
mod explain;
mod failures;
mod hedging;
mod late;
mod loss;
mod models;
mod paging;
mod probes;
mod sharing;
mod suspects;
mod time;
mod waits;

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::Scheduler;
use crate::{
    Attempt, BatchFailure, BatchId, Budget, Class, CloseReason, Cost, DeviceId, Dispatch, DownCause, Epoch, Failure,
    Group, GroupId, Input, ItemOutcome, Limits, ModelConfig, ModelId, ModelState, Output, PolicyConfig, Request,
    RequestId, Slot, TenantId, Timestamp, WorkerId,
};

const MODEL: ModelId = ModelId(1);
const OTHER_MODEL: ModelId = ModelId(2);
const WORKER: WorkerId = WorkerId(1);
const OTHER_WORKER: WorkerId = WorkerId(2);
const AMPLE: Budget = Budget { rows: 1_000, tokens: 1_000_000, bytes: 1 << 30 };

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn config(id: ModelId) -> ModelConfig {
    ModelConfig {
        id,
        objective: ms(100),
        queue_requests_max: NonZeroU32::new(1_000).unwrap(),
        queue_time_max: ms(60_000),
        batch_time_max: ms(5_000),
        batch_rows_max: NonZeroU32::new(64).unwrap(),
        batch_tokens_max: NonZeroU32::new(4_096).unwrap(),
        policy: PolicyConfig::Fixed,
        cost: None,
    }
}

/// Waits for 8 or 16 rows, at most 20 ms.
fn triton(id: ModelId) -> ModelConfig {
    let preferred_rows = [8, 16].map(|rows| NonZeroU32::new(rows).unwrap()).to_vec();
    ModelConfig { policy: PolicyConfig::Triton { queue_delay_max: ms(20), preferred_rows }, ..config(id) }
}

/// A standard call of tenant 1 for `MODEL`, with no deadline: one row, ten tokens, a hundred bytes per request.
fn call(id: u64, requests: impl IntoIterator<Item = u64>) -> Group {
    let cost = Cost { rows: 1, tokens: 10, tokens_squared: 100, bytes: 100 };
    Group {
        id: GroupId(id),
        model: MODEL,
        tenant: TenantId(1),
        class: Class::Standard,
        deadline: None,
        requests: requests.into_iter().map(|id| Request { id: RequestId(id), cost }).collect(),
    }
}

/// A driver with no payloads.
struct Stage {
    core: Scheduler,
    now: Timestamp,
    epoch: u64,
}

impl Stage {
    fn new(limits: Limits, models: Vec<ModelConfig>) -> Self {
        let mut stage = Self { core: Scheduler::new(limits), now: Timestamp::from_millis(1_000), epoch: 0 };
        stage.tell(Input::ConfigChanged(models));
        stage
    }

    /// One model under the fixed policy, and no worker.
    fn with_fixed() -> Self {
        Self::new(Limits::default(), vec![config(MODEL)])
    }

    /// One model under the fixed policy, ready on one worker that has given no credit.
    fn with_worker() -> Self {
        let mut stage = Self::with_fixed();
        stage.ready(WORKER);
        stage
    }

    fn pass(&mut self, millis: u64) -> Vec<Output> {
        self.now = self.now + ms(millis);
        self.tell(Input::Tick)
    }

    fn tell(&mut self, input: Input) -> Vec<Output> {
        self.core.handle(self.now, input);
        self.core.assert_invariants();
        std::iter::from_fn(|| self.core.poll_output()).collect()
    }

    fn submit(&mut self, group: Group) -> Vec<Output> {
        self.tell(Input::SubmitGroup(group))
    }

    /// Queues one standard request for `MODEL`.
    fn queue(&mut self, requests: impl IntoIterator<Item = u64>) {
        for id in requests {
            assert_eq!(self.submit(call(id, [id])), []);
        }
    }

    /// A worker with a device of its own connects.
    fn up(&mut self, worker: WorkerId) -> Vec<Output> {
        self.up_on(worker, DeviceId(worker.0))
    }

    fn up_on(&mut self, worker: WorkerId, device: DeviceId) -> Vec<Output> {
        self.epoch += 1;
        self.tell(Input::WorkerUp { worker, epoch: Epoch(self.epoch), device, models: vec![MODEL, OTHER_MODEL] })
    }

    fn ready(&mut self, worker: WorkerId) {
        self.ready_on(worker, DeviceId(worker.0));
    }

    fn ready_on(&mut self, worker: WorkerId, device: DeviceId) {
        self.up_on(worker, device);
        self.model(worker, MODEL, ModelState::Ready);
        self.model(worker, OTHER_MODEL, ModelState::Ready);
    }

    fn model(&mut self, worker: WorkerId, model: ModelId, state: ModelState) -> Vec<Output> {
        let epoch = self.epoch_of(worker);
        self.tell(Input::ModelState { worker, epoch, model, state })
    }

    fn credit(&mut self, worker: WorkerId, slot: u32, budget: Budget) -> Vec<Output> {
        let epoch = self.epoch_of(worker);
        self.tell(Input::WorkerCredit { worker, epoch, slot: Slot(slot), budget })
    }

    /// Gives an ample credit and expects one batch for it.
    fn take(&mut self, worker: WorkerId) -> Dispatch {
        only_dispatch(self.credit(worker, 0, AMPLE))
    }

    fn down(&mut self, worker: WorkerId, cause: DownCause) -> Vec<Output> {
        let epoch = self.epoch_of(worker);
        self.tell(Input::WorkerDown { worker, epoch, cause })
    }

    fn item(&mut self, of: &Dispatch, request: u64, outcome: ItemOutcome) -> Vec<Output> {
        let (worker, epoch, batch, attempt) = (of.worker, of.epoch, of.batch, of.attempt);
        self.tell(Input::ItemDone { worker, epoch, batch, attempt, request: RequestId(request), outcome })
    }

    fn end(&mut self, of: &Dispatch) -> Vec<Output> {
        let (worker, epoch, batch, attempt) = (of.worker, of.epoch, of.batch, of.attempt);
        self.tell(Input::BatchEnd { worker, epoch, batch, attempt, compute: ms(1) })
    }

    fn fail(&mut self, of: &Dispatch, reason: BatchFailure) -> Vec<Output> {
        let (worker, epoch, batch, attempt) = (of.worker, of.epoch, of.batch, of.attempt);
        self.tell(Input::BatchFailed { worker, epoch, batch, attempt, reason })
    }

    /// Everything in the batch succeeds and it ends.
    fn finish(&mut self, of: &Dispatch) -> Vec<Output> {
        let mut outputs = Vec::new();
        for request in &of.requests {
            outputs.extend(self.item(of, request.0, ItemOutcome::Ok));
        }
        outputs.extend(self.end(of));
        outputs
    }

    /// Gives an ample credit, and everything in the one batch for it succeeds.
    fn take_and_finish(&mut self, worker: WorkerId) -> Dispatch {
        let batch = self.take(worker);
        self.finish(&batch);
        batch
    }

    fn dropped(&self) -> u64 {
        self.core.counts().replies_dropped
    }

    fn epoch_of(&self, worker: WorkerId) -> Epoch {
        self.core.fleet.get(worker).map_or(Epoch(0), |worker| worker.epoch)
    }
}

/// Two workers, and two requests that were in a batch under which the device of the first broke, which is back without a
/// credit.
fn after_a_break() -> Stage {
    let mut stage = Stage::with_worker();
    stage.ready(OTHER_WORKER);
    stage.queue([1, 2]);
    stage.take(WORKER);
    assert_eq!(stage.down(WORKER, DownCause::DeviceBroke), []);
    stage.ready(WORKER);
    stage
}

fn only_dispatch(outputs: Vec<Output>) -> Dispatch {
    let mut dispatches = dispatches(&outputs);
    assert_eq!(dispatches.len(), 1, "one batch among {outputs:?}");
    dispatches.remove(0)
}

fn dispatches(outputs: &[Output]) -> Vec<Dispatch> {
    let dispatch =
        |output: &Output| if let Output::Dispatch(dispatch) = output { Some(dispatch.clone()) } else { None };
    outputs.iter().filter_map(dispatch).collect()
}

fn ids(dispatch: &Dispatch) -> Vec<u64> {
    dispatch.requests.iter().map(|id| id.0).collect()
}

fn complete(request: u64) -> Output {
    Output::Complete { request: RequestId(request) }
}

fn failed(request: u64, why: Failure) -> Output {
    Output::Fail { request: RequestId(request), why }
}

fn cancel_running(of: &Dispatch, requests: &[u64]) -> Output {
    let requests = requests.iter().copied().map(RequestId).collect();
    Output::CancelRunning { worker: of.worker, epoch: of.epoch, batch: of.batch, requests }
}
