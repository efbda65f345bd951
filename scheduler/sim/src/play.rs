//! Plays a scenario against the production core, as quickly as the core decides.
//!
//! Unlike [`run`](crate::run()) this judges nothing and keeps no transcript: of each request only what became of it. A
//! hash over every output and its time stands for the run, so that two machines can tell whether they saw the same.

mod clients;
mod device;
pub mod several;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::Duration;

use shoal_scheduler::{
    Attempt, BatchFailure, CloseReason, Cost, DeviceId, Dispatch, DownCause, Epoch, Failure, Input, ItemOutcome,
    Limits, ModelConfig, ModelId, ModelState, Output, Probe, Reject, RequestId, Scheduler, Slot, TenantId, Timestamp,
    WorkerId,
};

use self::clients::{Call, Clients};
use self::device::{Device, Ending, Load};
use crate::clock::Agenda;
use crate::fnv::Fnv;
use crate::rng::Rng;
use crate::scenario::{Curve, ModelSpec, Scenario, Told, Traffic, WorkerSpec};

/// How long a process that was replaced takes to come back.
const RESTART: Duration = Duration::from_secs(1);

/// How a scenario went under a policy.
#[derive(Debug)]
pub struct Outcome {
    /// Every request, in order of arrival.
    pub requests: Vec<Record>,
    /// Batches sent to workers.
    pub batches: u64,
    /// Of them those that were sent a second time.
    pub hedges: u64,
    /// Requests in them; more than `requests` where batches failed and were tried again.
    pub rows: u64,
    /// Device time of all batches, failed ones included.
    pub busy: Duration,
    /// For how long requests arrived.
    pub duration: Duration,
    /// FNV-1a over every output of the core and its time.
    pub hash: u64,
}

/// What became of one request.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// When it arrived.
    pub at: Timestamp,
    /// By when its answer was wanted: within the model's objective and before the client's deadline.
    pub due: Timestamp,
    /// What for.
    pub model: ModelId,
    /// From whom.
    pub tenant: TenantId,
    /// What it asked of a worker.
    pub cost: Cost,
    /// Whether it broke batches. Nobody can answer it.
    pub is_poison: bool,
    /// How it ended.
    pub fate: Fate,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It did not: the core forgot it.
    Open,
    /// With its result, then.
    Answered(Timestamp),
    /// Without one: refused on arrival or failed later.
    Shed(Timestamp),
}

/// What is going to happen, arrivals apart.
#[derive(Debug)]
enum Happening {
    /// A worker's word that a batch ended arrives.
    Ended {
        worker: usize,
        dispatch: Dispatch,
        /// What it says of weights that had to come first: how long they took, and which are not there now, if it says so
        /// then.
        page_in: Option<(Duration, Option<Vec<ModelId>>)>,
        ending: Ending,
    },
    Killed(usize),
    Returned(usize),
    /// A worker has read a model into memory.
    Loaded {
        worker: WorkerId,
        epoch: Epoch,
        model: ModelId,
    },
    /// A worker's word on which weights are not on its device arrives.
    Weights {
        worker: usize,
        epoch: Epoch,
        absent: Vec<ModelId>,
    },
    /// A worker brings weights in for somebody else.
    Stranger(usize),
    /// Somebody who was refused asks again.
    Asked(Call),
}

/// One worker.
#[derive(Debug)]
struct Worker {
    device: Device,
    id: WorkerId,
    epoch: Epoch,
    is_up: bool,
}

/// A run under way.
#[derive(Debug)]
struct Play {
    core: Scheduler,
    agenda: Agenda<Happening>,
    workers: Vec<Worker>,
    /// By model number.
    curves: Vec<Curve>,
    objectives: Vec<Duration>,
    loads: Vec<Duration>,
    memory_max: u64,
    poison_breaks_devices: bool,
    /// What others whom workers serve as well are drawn from.
    strangers: Rng,
    clients: Clients,
    /// What the outputs just taken make the world say.
    said: VecDeque<Input>,
    hash: Fnv,
    outcome: Outcome,
}

/// Runs a scenario with each model configured as `configure` says, until every request has ended.
pub fn play(scenario: &Scenario, configure: impl Fn(&ModelSpec) -> ModelConfig) -> Outcome {
    run_told(Limits::default(), scenario, configure, Vec::new())
}

/// The same within other limits.
pub fn play_within(limits: Limits, scenario: &Scenario, configure: impl Fn(&ModelSpec) -> ModelConfig) -> Outcome {
    run_told(limits, scenario, configure, Vec::new())
}

/// The same as [`play`], with what the core is told of the models before the workers come.
pub fn play_told(
    scenario: &Scenario,
    configure: impl Fn(&ModelSpec) -> ModelConfig,
    inputs: impl IntoIterator<Item = Input>,
) -> Outcome {
    run_told(Limits::default(), scenario, configure, inputs)
}

fn run_told(
    limits: Limits,
    scenario: &Scenario,
    configure: impl Fn(&ModelSpec) -> ModelConfig,
    inputs: impl IntoIterator<Item = Input>,
) -> Outcome {
    let mut play = Play::new(limits, scenario);
    play.tell(Input::ConfigChanged(scenario.models.iter().map(configure).collect()));
    let priors = scenario.models.iter().filter_map(|model| Some((model.id, model.curve.times(model.prior?))));
    for (model, cost) in priors {
        play.tell(Input::CostKnown { model, cost: cost.into() });
    }
    inputs.into_iter().for_each(|input| play.tell(input));
    play.begin();
    play.run(Traffic::new(scenario));
    Outcome { hash: play.hash.finish(), requests: play.clients.records, ..play.outcome }
}

impl Play {
    fn new(limits: Limits, scenario: &Scenario) -> Self {
        let mut rng = Rng::new(!scenario.seed);
        let mut worker = |(id, spec): (u32, &WorkerSpec)| Worker {
            device: Device::new(spec, rng.fork()),
            id: WorkerId(id),
            epoch: Epoch(0),
            is_up: false,
        };
        Self {
            core: Scheduler::new(limits),
            agenda: Agenda::new(Timestamp::ZERO),
            workers: (1..).zip(&scenario.workers).map(&mut worker).collect(),
            curves: scenario.models.iter().map(|model| model.curve).collect(),
            objectives: scenario.models.iter().map(|model| model.objective).collect(),
            loads: scenario.models.iter().map(|model| model.load).collect(),
            memory_max: scenario.faults.memory_max.unwrap_or(u64::MAX),
            poison_breaks_devices: scenario.faults.poison_breaks_devices,
            strangers: Rng::new(scenario.seed.rotate_left(32)),
            clients: Clients::default(),
            said: VecDeque::new(),
            hash: Fnv::new(),
            outcome: Outcome {
                requests: Vec::new(),
                batches: 0,
                hedges: 0,
                rows: 0,
                busy: Duration::ZERO,
                duration: scenario.duration,
                hash: 0,
            },
        }
    }

    /// Connects the workers and plans their absences.
    fn begin(&mut self) {
        for at in 0..self.workers.len() {
            self.connect(at);
            for absence in self.workers[at].device.spec.absences.clone() {
                self.agenda.at(Timestamp::ZERO + absence.from, Happening::Killed(at));
                if let Some(until) = absence.until {
                    self.agenda.at(Timestamp::ZERO + until, Happening::Returned(at));
                }
            }
        }
    }

    /// Does whatever is next until nothing is left. Of things at one time, what workers say comes first, then arrivals.
    fn run(&mut self, mut traffic: Traffic) {
        let mut arrival = traffic.next();
        while arrival.is_some() || self.clients.open > 0 {
            let arrives = arrival.map_or(Timestamp::MAX, |ask| ask.at);
            let happens = self.agenda.next_at().unwrap_or(Timestamp::MAX);
            let wakes = self.core.poll_timeout().map_or(Timestamp::MAX, |(at, _)| at);
            let next = arrives.min(happens).min(wakes);
            if next == Timestamp::MAX {
                break;
            }
            self.agenda.advance(next);
            if happens == next {
                if let Some(happening) = self.agenda.pop() {
                    self.happen(happening);
                }
            } else if arrives == next {
                if let Some(ask) = arrival.take() {
                    let mates = traffic.by_ref().take(ask.mates as usize);
                    let group = self.clients.ask(&ask, mates, self.objectives[ask.model.0 as usize]);
                    self.tell(Input::SubmitGroup(group));
                }
                arrival = traffic.next();
            } else {
                self.tell(Input::Tick);
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Ended { worker, dispatch, page_in, ending } => {
                // The dead say nothing.
                if self.workers[worker].epoch == dispatch.epoch && self.workers[worker].is_up {
                    if let Some((taken, absent)) = page_in {
                        let Dispatch { worker, epoch, batch, attempt, .. } = dispatch;
                        self.tell(Input::PagedIn { worker, epoch, batch, attempt, taken });
                        absent.into_iter().for_each(|absent| self.tell(Input::Weights { worker, epoch, absent }));
                    }
                    self.report(worker, &dispatch, ending);
                }
            }
            Happening::Killed(at) => {
                if self.workers[at].is_up {
                    self.lose(at, DownCause::Lost);
                }
            }
            Happening::Returned(at) => {
                if !self.workers[at].is_up {
                    self.connect(at);
                }
            }
            Happening::Loaded { worker, epoch, model } => {
                self.tell(Input::ModelState { worker, epoch, model, state: ModelState::Ready });
            }
            Happening::Weights { worker, epoch, absent } => {
                if self.workers[worker].epoch == epoch && self.workers[worker].is_up {
                    self.tell(Input::Weights { worker: self.workers[worker].id, epoch, absent });
                }
            }
            Happening::Stranger(at) => self.serve_stranger(at),
            Happening::Asked(call) => {
                let objective = self.objectives[call.model.0 as usize];
                let group = self.clients.ask_again(call, self.agenda.now(), objective);
                self.tell(Input::SubmitGroup(group));
            }
        }
    }

    /// A worker comes up with every model and all its credits.
    fn connect(&mut self, at: usize) {
        let now = self.agenda.now();
        let worker = &mut self.workers[at];
        (worker.epoch, worker.is_up) = (Epoch(worker.epoch.0 + 1), true);
        worker.device.reset(now);
        let (id, epoch, spec) = (worker.id, worker.epoch, &worker.device.spec);
        let (budget, slots) = (spec.budget, spec.slots);
        let models = (0..).zip(&self.curves).map(|(model, _)| ModelId(model)).collect();
        self.tell(Input::WorkerUp { worker: id, epoch, device: DeviceId(id.0), models });
        for slot in (0..slots).map(Slot) {
            self.tell(Input::WorkerCredit { worker: id, epoch, slot, budget });
        }
        self.tell_weights(at, now);
        self.expect_stranger(at);
    }

    /// A worker says which weights are not on its device since then, if it does so by itself.
    fn tell_weights(&mut self, at: usize, since: Timestamp) {
        let Worker { device, epoch, .. } = &self.workers[at];
        if device.spec.weights.is_some_and(|weights| weights.told == Told::AtOnce) {
            let absent = device.absent(self.curves.len());
            let arrives = since.max(self.agenda.now()) + device.spec.link;
            self.agenda.at(arrives, Happening::Weights { worker: at, epoch: *epoch, absent });
        }
    }

    fn expect_stranger(&mut self, at: usize) {
        let weights = self.workers[at].device.spec.weights.filter(|weights| !weights.strangers_every.is_zero());
        if let Some(weights) = weights {
            let gap = self.strangers.exponential(weights.strangers_every);
            self.agenda.after(gap, Happening::Stranger(at));
        }
    }

    /// Somebody else, whom the worker serves as well, wants any model of it.
    fn serve_stranger(&mut self, at: usize) {
        if !self.workers[at].is_up {
            return;
        }
        let now = self.agenda.now();
        let model = ModelId(u32::try_from(self.strangers.below(self.curves.len() as u64)).unwrap_or_default());
        if self.workers[at].device.page_in(now, model).is_some() {
            self.tell_weights(at, now);
        }
        self.expect_stranger(at);
    }

    /// The server finds out that a worker is gone.
    fn lose(&mut self, at: usize, cause: DownCause) {
        let (worker, epoch) = (self.workers[at].id, self.workers[at].epoch);
        self.stop(at);
        self.tell(Input::WorkerDown { worker, epoch, cause });
    }

    /// A worker stops at once. What it had not yet done is not counted as done.
    fn stop(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        worker.is_up = false;
        self.outcome.busy = self.outcome.busy.saturating_sub(worker.device.free.since(self.agenda.now()));
    }

    /// Tells the core how a batch ended and gives it the credit back.
    fn report(&mut self, at: usize, dispatch: &Dispatch, ending: Ending) {
        let worker = &self.workers[at];
        let (worker, budget, epoch) = (worker.id, worker.device.spec.budget, worker.epoch);
        let (batch, attempt): (_, Attempt) = (dispatch.batch, dispatch.attempt);
        match ending {
            Ending::Well(compute) => {
                for request in dispatch.requests.iter().copied() {
                    let outcome = ItemOutcome::Ok;
                    self.tell(Input::ItemDone { worker, epoch, batch, attempt, request, outcome });
                }
                self.tell(Input::BatchEnd { worker, epoch, batch, attempt, compute });
            }
            Ending::Badly(BatchFailure::Item) if self.poison_breaks_devices => {
                self.agenda.after(RESTART, Happening::Returned(at));
                return self.lose(at, DownCause::DeviceBroke);
            }
            Ending::Badly(reason) => self.tell(Input::BatchFailed { worker, epoch, batch, attempt, reason }),
        }
        self.tell(Input::WorkerCredit { worker, epoch, slot: dispatch.slot, budget });
    }

    /// One input, its outputs, and what these make the world say in turn.
    fn tell(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next {
            self.core.handle(self.agenda.now(), input);
            while let Some(output) = self.core.poll_output() {
                self.take(output);
            }
            next = self.said.pop_front();
        }
    }

    fn take(&mut self, output: Output) {
        let now = self.agenda.now();
        self.hash.number(now.as_nanos());
        match output {
            Output::Complete { request } => {
                self.hash.number(request.0);
                self.clients.answered(request, now);
            }
            Output::Dispatch(dispatch) => {
                self.hash_dispatch(&dispatch);
                self.start(dispatch);
            }
            other => {
                // Rare enough for its text. Writing into a hash cannot fail.
                let _ = write!(self.hash, "{other:?}");
                match other {
                    Output::Probe(probe) => self.start_probe(probe),
                    Output::Fail { request, why } => {
                        let after = if let Failure::Shed { retry_after } = why { Some(retry_after) } else { None };
                        self.refuse(request, after);
                    }
                    Output::Reject { group, why } => self.refuse(RequestId(group.0), retry_after(&why)),
                    Output::Load { worker, epoch, model } => self.load(worker, epoch, model),
                    Output::Replace { worker, .. } => {
                        let at = worker.0 as usize - 1;
                        self.stop(at);
                        self.agenda.after(RESTART, Happening::Returned(at));
                    }
                    _ => {}
                }
            }
        }
    }

    /// A call fails. Its client may ask again, if it was told when.
    fn refuse(&mut self, request: RequestId, retry_after: Option<Duration>) {
        let again = self.clients.refused(request, self.agenda.now(), retry_after.is_some());
        if let (Some(call), Some(after)) = (again, retry_after) {
            self.agenda.after(after, Happening::Asked(call));
        }
    }

    fn load(&mut self, worker: WorkerId, epoch: Epoch, model: ModelId) {
        match self.loads[model.0 as usize] {
            Duration::ZERO => {
                self.said.push_back(Input::ModelState { worker, epoch, model, state: ModelState::Ready });
            }
            takes => self.agenda.after(takes, Happening::Loaded { worker, epoch, model }),
        }
    }

    /// A batch is on its way: when it will begin and end is known at once.
    fn start(&mut self, dispatch: Dispatch) {
        let at = dispatch.worker.0 as usize - 1;
        let mut load = Load::default();
        for id in &dispatch.requests {
            let record = self.clients.record(*id);
            load.add(record.cost, record.is_poison);
        }
        self.outcome.batches += 1;
        self.outcome.hedges += u64::from(dispatch.close == CloseReason::Hedged);
        self.outcome.rows += dispatch.requests.len() as u64;
        self.run_batch(at, dispatch, load);
    }

    /// A batch that nobody asked for is on its way.
    fn start_probe(&mut self, probe: Probe) {
        let Probe { batch, worker, epoch, slot, model, attempt, rows, tokens } = probe;
        let squares = u64::from(rows) * u64::from(tokens) * u64::from(tokens);
        let cost = Cost { rows, tokens: rows * tokens, tokens_squared: squares, bytes: 0 };
        let (close, requests) = (CloseReason::Drained, Vec::new());
        let dispatch = Dispatch { batch, worker, epoch, slot, model, attempt, close, requests };
        self.run_batch(worker.0 as usize - 1, dispatch, Load { cost, is_poisoned: false });
    }

    fn run_batch(&mut self, at: usize, dispatch: Dispatch, load: Load) {
        let curve = self.curves[dispatch.model.0 as usize];
        let device = &mut self.workers[at].device;
        let link = device.spec.link_of(dispatch.requests.len());
        let comes = self.agenda.now() + link;
        let begins = comes.max(device.free);
        let paged = device.page_in(comes, dispatch.model);
        let (compute, ending) = device.run(comes, curve, load, self.memory_max);
        self.outcome.busy += compute + paged.unwrap_or_default();
        let told = device.spec.weights.map_or(Told::Never, |weights| weights.told);
        let page_in = paged.filter(|_| told != Told::Never);
        let page_in =
            page_in.map(|taken| (taken, (told == Told::WithPageIns).then(|| device.absent(self.curves.len()))));
        let ends = device.free + link;
        self.agenda.at(ends, Happening::Ended { worker: at, dispatch, page_in, ending });
        if paged.is_some() {
            self.tell_weights(at, begins);
        }
    }

    fn hash_dispatch(&mut self, dispatch: &Dispatch) {
        let Dispatch { batch, worker, epoch, slot, model, attempt, close, requests } = dispatch;
        let (worker, slot, model) = (u64::from(worker.0), u64::from(slot.0), u64::from(model.0));
        let numbers = [batch.0, worker, epoch.0, slot, model, u64::from(attempt.0), *close as u64];
        numbers.into_iter().chain(requests.iter().map(|request| request.0)).for_each(|number| self.hash.number(number));
    }
}

/// When a client that was refused is told to ask again.
fn retry_after(why: &Reject) -> Option<Duration> {
    match why {
        Reject::DeadlineUnmeetable { retry_after } | Reject::QueueFull { retry_after, .. } => Some(*retry_after),
        _ => None,
    }
}
