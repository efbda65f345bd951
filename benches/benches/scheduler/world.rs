//! Clients and workers for the scheduler to decide for, in virtual time, and a record of all they say to it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU32;
use std::time::Duration;

use shoal_scheduler::{
    BatchCost, Budget, Class, Cost, DeviceId, Dispatch, Epoch, Group, GroupId, Input, ItemOutcome, Limits, ModelConfig,
    ModelId, ModelState, OnLate, Output, PolicyConfig, Request, RequestId, Scheduler, Slot, TenantId, Timestamp,
    WorkerId,
};

const EPOCH: Epoch = Epoch(1);
/// What a batch may hold.
const BUDGET: Budget = Budget { rows: 64, tokens: 16_384, bytes: 1 << 24 };
/// What a batch takes: 3 ms with 64 rows of 20 tokens, on the mean.
const BATCH: BatchCost = BatchCost { base_ns: 500_000, row_ns: 20_000, token_ps: 1_000_000, token_squared_fs: 0 };
/// Tokens of a row, and how many more at most.
const TOKENS: (u64, u64) = (4, 33);
/// A batch takes up to so many thousandths more or less.
const STRAY: u64 = 50;
/// One request in so many is cancelled while it waits.
const CANCELLED_OF: u64 = 10;
const TENANTS: u64 = 16;
/// Requests decided before anything is counted, beside the first fill of the queue.
const WARM_UP: u64 = 30_000;

/// What is asked of the scheduler.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) policy: Policy,
    pub(crate) models: u32,
    pub(crate) workers: u32,
    pub(crate) arrivals: Arrivals,
    pub(crate) objective: Duration,
    /// Of every class and not of one.
    pub(crate) has_classes: bool,
    /// Requests counted, once it goes its way.
    pub(crate) counted: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Fixed,
    Learned(OnLate),
}

/// When requests come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrivals {
    /// When others go, so that so many are always queued.
    Queued(u64),
    /// At random, so many hundredths of what the workers can take in full batches.
    Percent(u64),
}

/// What was said to a scheduler.
#[derive(Debug)]
pub(crate) struct Script {
    inputs: Vec<(Timestamp, Input)>,
    /// From where on counts.
    from: usize,
    pub(crate) seen: Seen,
}

/// What happened in the part of a script that counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Ended, one way or the other, but for those that were cancelled.
    pub(crate) decided: u64,
    /// Given up as late; they may have been answered later.
    pub(crate) late: u64,
    /// Failed or refused.
    pub(crate) failed: u64,
    pub(crate) batches: u64,
    pub(crate) rows: u64,
    /// Mean number of requests queued when a batch was sent.
    pub(crate) queued: u64,
    pub(crate) outputs: u64,
}

/// What the world knows of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Queued,
    Running,
    Gone,
}

struct World {
    load: Load,
    scheduler: Scheduler,
    now: Timestamp,
    random: u64,
    /// By id.
    places: Vec<Place>,
    costs: Vec<Cost>,
    queued: u64,
    /// Batches by when they end.
    ends: BinaryHeap<Reverse<(Timestamp, u32)>>,
    /// By worker.
    running: Vec<Option<Dispatch>>,
    script: Script,
    is_counting: bool,
    queued_sum: u64,
}

impl Script {
    /// Lives through a load and writes down what it says to the scheduler.
    pub(crate) fn record(load: Load) -> Self {
        let mut world = World::new(load);
        world.begin();
        let limit = |world: &World| world.script.seen.decided;
        while limit(&world) < WARM_UP {
            world.step();
        }
        world.script.seen = Seen::default();
        (world.script.from, world.is_counting) = (world.script.inputs.len(), true);
        while limit(&world) < load.counted {
            world.step();
        }
        world.script.seen.queued = world.queued_sum / world.script.seen.batches.max(1);
        world.script
    }

    /// Says it all again and gives back how long the counted part took by this clock, and how much came of it.
    pub(crate) fn replay(&self, clock: impl Fn() -> Duration) -> (Duration, u64) {
        let mut inputs = self.inputs.clone();
        let counted = inputs.split_off(self.from);
        let mut scheduler = Scheduler::new(limits());
        say(&mut scheduler, inputs);
        let began = clock();
        let outputs = say(&mut scheduler, counted);
        (clock() - began, outputs)
    }
}

/// What a driver does with each input.
fn say(scheduler: &mut Scheduler, inputs: Vec<(Timestamp, Input)>) -> u64 {
    let mut outputs = 0;
    for (now, input) in inputs {
        scheduler.handle(now, input);
        while let Some(output) = scheduler.poll_output() {
            std::hint::black_box(output);
            outputs += 1;
        }
        std::hint::black_box(scheduler.poll_timeout());
    }
    outputs
}

fn limits() -> Limits {
    Limits { tenant_requests_max: u32::MAX, class_requests_max: u32::MAX, ..Limits::default() }
}

impl World {
    fn new(load: Load) -> Self {
        Self {
            load,
            scheduler: Scheduler::new(limits()),
            now: Timestamp::from_millis(1),
            random: 1,
            places: Vec::new(),
            costs: Vec::new(),
            queued: 0,
            ends: BinaryHeap::new(),
            running: (0..load.workers).map(|_| None).collect(),
            script: Script { inputs: Vec::new(), from: 0, seen: Seen::default() },
            is_counting: false,
            queued_sum: 0,
        }
    }

    /// Workers that hold all models, each with a credit, and a full queue.
    fn begin(&mut self) {
        let models = || (0..self.load.models).map(ModelId);
        let (configs, offered) = (models().map(|id| self.model(id)).collect(), models().collect::<Vec<_>>());
        self.tell(Input::ConfigChanged(configs));
        for worker in (0..self.load.workers).map(WorkerId) {
            self.tell(Input::WorkerUp { worker, epoch: EPOCH, device: DeviceId(worker.0), models: offered.clone() });
            for model in offered.iter().copied() {
                self.tell(Input::ModelState { worker, epoch: EPOCH, model, state: ModelState::Ready });
            }
        }
        if let Arrivals::Queued(queued) = self.load.arrivals {
            (0..queued).for_each(|_| self.submit());
        }
        (0..self.load.workers).for_each(|worker| self.grant(worker));
        self.top_up();
    }

    /// Until the next batch has ended, or the next request has come.
    fn step(&mut self) {
        let end = self.ends.peek().map(|Reverse((at, _))| *at);
        let arrival = match self.load.arrivals {
            Arrivals::Queued(_) => None,
            Arrivals::Percent(percent) => {
                let batch = self.batch_ns(BUDGET.rows.into(), u64::from(BUDGET.rows) * mean_tokens());
                let mean = batch * 100 / (u64::from(self.load.workers) * u64::from(BUDGET.rows) * percent);
                // Any spread makes queues change.
                Some(self.now + Duration::from_nanos(self.below(2 * mean + 1)))
            }
        };
        let next = [end, arrival].into_iter().flatten().min().expect("something is going to happen");
        while let Some((at, _)) = self.scheduler.poll_timeout()
            && at < next
        {
            self.now = self.now.max(at);
            self.tell(Input::Tick);
        }
        self.now = next;
        if end == Some(next) {
            self.end();
        } else {
            self.submit();
            self.cancel_some();
        }
    }

    fn end(&mut self) {
        let Some(Reverse((_, worker))) = self.ends.pop() else { return };
        let Some(dispatch) = self.running[worker as usize].take() else { return };
        let Dispatch { batch, attempt, requests, .. } = dispatch;
        for request in requests {
            if self.places[request.0 as usize] == Place::Running {
                let (worker, outcome) = (WorkerId(worker), ItemOutcome::Ok);
                self.tell(Input::ItemDone { worker, epoch: EPOCH, batch, attempt, request, outcome });
            }
        }
        let compute = Duration::from_millis(1);
        self.tell(Input::BatchEnd { worker: WorkerId(worker), epoch: EPOCH, batch, attempt, compute });
        self.grant(worker);
        self.top_up();
    }

    /// Queues as many as are to be queued.
    fn top_up(&mut self) {
        let Arrivals::Queued(queued) = self.load.arrivals else { return };
        // Evenly until the next batch ends.
        let missing = queued.saturating_sub(self.queued);
        let until = self.ends.peek().map_or(self.now, |Reverse((at, _))| *at);
        let gap = until.since(self.now) / u32::try_from(missing + 1).unwrap_or(u32::MAX);
        while self.queued < queued {
            self.now = until.min(self.now + gap);
            self.submit();
            self.cancel_some();
        }
    }

    fn submit(&mut self) {
        let id = self.places.len() as u64;
        let tokens = (TOKENS.0 + self.below(TOKENS.1)) as u32;
        let cost = Cost { rows: 1, tokens, tokens_squared: u64::from(tokens).pow(2), bytes: 4 * u64::from(tokens) };
        self.places.push(Place::Queued);
        self.costs.push(cost);
        self.queued += 1;
        // Between half of the objective and all of it: the order of the queue is not that of arrival.
        let half = self.load.objective.as_nanos() as u64 / 2;
        let deadline = self.now + Duration::from_nanos(half + self.below(half));
        let class = match self.below(10) {
            0..3 if self.load.has_classes => Class::Interactive,
            8.. if self.load.has_classes => Class::Bulk,
            _ => Class::Standard,
        };
        let (model, tenant) =
            (ModelId(self.below(self.load.models.into()) as u32), TenantId(self.below(TENANTS) as u32));
        self.tell(Input::SubmitGroup(Group {
            id: GroupId(id),
            model,
            tenant,
            class,
            deadline: Some(deadline),
            requests: vec![Request { id: RequestId(id), cost }],
        }));
    }

    /// For each request that comes, one in so many of those that wait goes away.
    fn cancel_some(&mut self) {
        if self.below(CANCELLED_OF) > 0 {
            return;
        }
        for _ in 0..64 {
            let back = self.below((2 * self.queued).clamp(1, self.places.len() as u64));
            let id = self.places.len() as u64 - 1 - back;
            if self.places[id as usize] == Place::Queued {
                self.leave(RequestId(id));
                return self.tell(Input::Cancel(GroupId(id)));
            }
        }
    }

    fn grant(&mut self, worker: u32) {
        self.tell(Input::WorkerCredit { worker: WorkerId(worker), epoch: EPOCH, slot: Slot(0), budget: BUDGET });
    }

    fn tell(&mut self, input: Input) {
        self.script.inputs.push((self.now, input.clone()));
        self.scheduler.handle(self.now, input);
        while let Some(output) = self.scheduler.poll_output() {
            self.script.seen.outputs += 1;
            self.hear(output);
        }
    }

    fn hear(&mut self, output: Output) {
        match output {
            Output::Dispatch(dispatch) => {
                let seen = &mut self.script.seen;
                seen.batches += 1;
                seen.rows += dispatch.requests.len() as u64;
                self.queued_sum += if self.is_counting { self.queued } else { 0 };
                self.run(dispatch);
            }
            Output::Complete { request } => {
                self.leave(request);
                self.script.seen.decided += 1;
            }
            Output::Fail { request, .. } => {
                self.leave(request);
                self.script.seen.failed += 1;
                self.script.seen.decided += 1;
            }
            Output::Reject { group, .. } => {
                self.leave(RequestId(group.0));
                self.script.seen.failed += 1;
                self.script.seen.decided += 1;
            }
            Output::Late { .. } => self.script.seen.late += 1,
            Output::CancelRunning { .. } | Output::Load { .. } => {}
            other => panic!("not in this world: {other:?}"),
        }
    }

    fn run(&mut self, dispatch: Dispatch) {
        let mut tokens = 0;
        for request in &dispatch.requests {
            self.places[request.0 as usize] = Place::Running;
            tokens += u64::from(self.costs[request.0 as usize].tokens);
        }
        self.queued -= dispatch.requests.len() as u64;
        let time = self.batch_ns(dispatch.requests.len() as u64, tokens) / 1_000;
        let time = time * (1_000 - STRAY + self.below(2 * STRAY));
        let worker = dispatch.worker.0;
        self.ends.push(Reverse((self.now + Duration::from_nanos(time), worker)));
        let before = self.running[worker as usize].replace(dispatch);
        assert_eq!(before, None, "one batch to a worker at a time");
    }

    fn leave(&mut self, request: RequestId) {
        let place = &mut self.places[request.0 as usize];
        self.queued -= u64::from(*place == Place::Queued);
        *place = Place::Gone;
    }

    fn batch_ns(&self, rows: u64, tokens: u64) -> u64 {
        BATCH.base_ns + BATCH.row_ns * rows + BATCH.token_ps * tokens / 1_000
    }

    fn model(&self, id: ModelId) -> ModelConfig {
        const MANY: NonZeroU32 = NonZeroU32::new(1 << 20).unwrap();
        let policy = match self.load.policy {
            Policy::Fixed => PolicyConfig::Fixed,
            Policy::Learned(on_late) => PolicyConfig::Learned { wait_price: 1, waits_when_idle: false, on_late },
        };
        ModelConfig {
            id,
            objective: self.load.objective,
            queue_requests_max: MANY,
            queue_time_max: Duration::from_secs(60),
            batch_time_max: Duration::from_secs(60),
            batch_rows_max: MANY,
            batch_tokens_max: MANY,
            policy,
            cost: Some(BATCH),
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random() % end
    }

    /// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn mean_tokens() -> u64 {
    TOKENS.0 + TOKENS.1 / 2
}
