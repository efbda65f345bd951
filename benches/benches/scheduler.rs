//! What a decision costs: one request in, dispatched, completed, with so many others queued behind it.
//!
//! `mixed` is the day's work: deadlines at random, so that the order of the queue is not the order of arrival, batches of
//! 64, and one request in ten cancelled while it waits.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shoal_scheduler::{
    BatchId, Budget, Class, Cost, Epoch, Group, GroupId, Input, ItemOutcome, Limits, ModelConfig, ModelId, ModelState,
    OnLate, Output, PolicyConfig, Request, RequestId, Scheduler, Slot, TenantId, Timestamp, WorkerId,
};

const WORKER: WorkerId = WorkerId(1);
const EPOCH: Epoch = Epoch(1);
const BATCH_ROWS: u32 = 32;

/// What requests are like.
#[derive(Clone, Copy)]
struct Mix {
    policy: fn() -> PolicyConfig,
    batch_rows: u32,
    /// Deadlines are this far away at least and up to twice as far, at random; none when zero.
    deadline: Duration,
    /// Cancelled for each batch that is sent.
    cancels: u32,
}

const PLAIN: Mix = Mix { policy: || PolicyConfig::Fixed, batch_rows: BATCH_ROWS, deadline: Duration::ZERO, cancels: 0 };
const MIXED: Mix =
    Mix { policy: || PolicyConfig::Fixed, batch_rows: 64, deadline: Duration::from_secs(10), cancels: 7 };
/// The same under the policy that servers use.
const LEARNED: Mix = Mix { policy: learned, ..MIXED };

fn learned() -> PolicyConfig {
    PolicyConfig::Learned { wait_price: 1, waits_when_idle: false, on_late: OnLate::Serve }
}

/// A scheduler with one worker that is always ready for more.
struct World {
    scheduler: Scheduler,
    now: Timestamp,
    next: u64,
    models: u32,
    mix: Mix,
    random: u64,
}

impl World {
    fn new(models: u32, queued: u64, mix: Mix) -> Self {
        let most = u32::MAX;
        let limits = Limits { tenant_requests_max: most, class_requests_max: most, ..Limits::default() };
        let (scheduler, now) = (Scheduler::new(limits), Timestamp::from_millis(1));
        let mut world = Self { scheduler, now, next: 1, models, mix, random: 1 };
        world.tell(Input::ConfigChanged(
            (0..models).map(|id| ModelConfig { policy: (mix.policy)(), ..model(id) }).collect(),
        ));
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

    /// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn deadline(&mut self) -> Option<Timestamp> {
        let least = self.mix.deadline;
        if least.is_zero() {
            return None;
        }
        let more = Duration::from_nanos(self.random() % least.as_nanos() as u64);
        Some(self.now + least + more)
    }

    fn submit(&mut self) {
        let id = self.next;
        self.next += 1;
        let deadline = self.deadline();
        let request = Request { id: RequestId(id), cost: Cost { rows: 1, tokens: 20, tokens_squared: 400, bytes: 80 } };
        self.tell(Input::SubmitGroup(Group {
            id: GroupId(id),
            model: ModelId((id % u64::from(self.models)) as u32),
            tenant: TenantId((id % 16) as u32),
            class: Class::Standard,
            deadline,
            requests: vec![request],
        }));
        while self.scheduler.poll_output().is_some() {}
    }

    /// As many requests in as a batch takes, one batch out and answered.
    fn turn(&mut self) {
        let Mix { batch_rows, cancels, .. } = self.mix;
        (0..batch_rows + cancels).for_each(|_| self.submit());
        for _ in 0..cancels {
            // Of the latest ones, which are still queued but for a few; a cancel of one that is not is no event.
            let id = self.next - 1 - self.random() % u64::from(batch_rows);
            self.tell(Input::Cancel(GroupId(id)));
            while self.scheduler.poll_output().is_some() {}
        }
        let budget = Budget { rows: batch_rows, tokens: 16_384, bytes: 1 << 24 };
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
        // Longer than any deadline, which therefore orders the queue.
        objective: Duration::from_secs(60),
        queue_requests_max: MANY,
        queue_time_max: Duration::from_secs(3600),
        batch_time_max: Duration::from_secs(3600),
        batch_rows_max: MANY,
        batch_tokens_max: MANY,
        policy: PolicyConfig::Fixed,
        cost: None,
    }
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("request in, decided, answered");
    for (mix, name) in [(PLAIN, "plain"), (MIXED, "mixed"), (LEARNED, "learned")] {
        // Only those that are answered count; the cancelled are work besides.
        group.throughput(Throughput::Elements(u64::from(mix.batch_rows)));
        for (models, queued) in [(1, 0), (1, 1_000), (1, 10_000), (1, 100_000), (64, 100_000)] {
            let name = BenchmarkId::new(name, format!("{models} models, {queued} queued"));
            group.bench_function(name, |b| {
                let mut world = World::new(models, queued, mix);
                b.iter(|| world.turn());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decide);
criterion_main!(benches);
