//! What a decision costs: one request in, dispatched, completed, with so many others queued behind it.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shoal_scheduler::{
    BatchId, Budget, Class, Cost, Epoch, Group, GroupId, Input, ItemOutcome, Limits, ModelConfig, ModelId, ModelState,
    Output, PolicyConfig, Request, RequestId, Scheduler, Slot, TenantId, Timestamp, WorkerId,
};

const WORKER: WorkerId = WorkerId(1);
const EPOCH: Epoch = Epoch(1);
const BATCH_ROWS: u32 = 32;

/// A scheduler with one worker that is always ready for more.
struct World {
    scheduler: Scheduler,
    now: Timestamp,
    next: u64,
    models: u32,
}

impl World {
    fn new(models: u32, queued: u64) -> Self {
        let most = u32::MAX;
        let limits = Limits { tenant_requests_max: most, class_requests_max: most, ..Limits::default() };
        let mut world = Self { scheduler: Scheduler::new(limits), now: Timestamp::from_millis(1), next: 1, models };
        world.tell(Input::ConfigChanged((0..models).map(model).collect()));
        let offered = (0..models).map(ModelId).collect();
        world.tell(Input::WorkerUp { worker: WORKER, epoch: EPOCH, models: offered });
        for id in 0..models {
            let state = ModelState::Ready;
            world.tell(Input::ModelState { worker: WORKER, epoch: EPOCH, model: ModelId(id), state });
        }
        (0..queued).for_each(|_| world.submit());
        world
    }

    fn tell(&mut self, input: Input) {
        self.now = self.now + Duration::from_micros(1);
        self.scheduler.handle(self.now, input);
    }

    fn submit(&mut self) {
        let id = self.next;
        self.next += 1;
        let request = Request { id: RequestId(id), cost: Cost { rows: 1, tokens: 20, tokens_squared: 400, bytes: 80 } };
        self.tell(Input::SubmitGroup(Group {
            id: GroupId(id),
            model: ModelId((id % u64::from(self.models)) as u32),
            tenant: TenantId((id % 16) as u32),
            class: Class::Standard,
            deadline: None,
            requests: vec![request],
        }));
        while self.scheduler.poll_output().is_some() {}
    }

    /// As many requests in as a batch takes, one batch out and answered.
    fn turn(&mut self) {
        (0..BATCH_ROWS).for_each(|_| self.submit());
        let budget = Budget { rows: BATCH_ROWS, tokens: 16_384, bytes: 1 << 24 };
        self.tell(Input::WorkerCredit { worker: WORKER, epoch: EPOCH, slot: Slot(0), budget });
        let mut sent = None;
        while let Some(output) = self.scheduler.poll_output() {
            if let Output::Dispatch(dispatch) = output {
                sent = Some(dispatch);
            }
        }
        let sent = sent.expect("a batch, since requests are queued and a credit was granted");
        for request in sent.requests {
            let (batch, attempt, outcome): (BatchId, _, _) = (sent.batch, sent.attempt, ItemOutcome::Ok);
            self.tell(Input::ItemDone { worker: WORKER, epoch: EPOCH, batch, attempt, request, outcome });
            while let Some(output) = self.scheduler.poll_output() {
                black_box(output);
            }
        }
        let (batch, attempt, compute) = (sent.batch, sent.attempt, Duration::from_millis(1));
        self.tell(Input::BatchEnd { worker: WORKER, epoch: EPOCH, batch, attempt, compute });
        while self.scheduler.poll_output().is_some() {}
        black_box(self.scheduler.poll_timeout());
    }
}

fn model(id: u32) -> ModelConfig {
    const MANY: NonZeroU32 = NonZeroU32::MAX;
    ModelConfig {
        id: ModelId(id),
        objective: Duration::from_millis(50),
        queue_requests_max: MANY,
        queue_time_max: Duration::from_secs(3600),
        batch_time_max: Duration::from_secs(3600),
        batch_rows_max: MANY,
        batch_tokens_max: MANY,
        policy: PolicyConfig::Fixed,
    }
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("request in, decided, answered");
    group.throughput(Throughput::Elements(u64::from(BATCH_ROWS)));
    for (models, queued) in [(1, 0), (1, 1_000), (1, 100_000), (64, 100_000)] {
        let name = BenchmarkId::from_parameter(format!("{models} models, {queued} queued"));
        group.bench_function(name, |b| {
            let mut world = World::new(models, queued);
            b.iter(|| world.turn());
        });
    }
    group.finish();
}

criterion_group!(benches, decide);
criterion_main!(benches);
