//! A modelled worker: takes time for batches, has a memory, gives credits, and fails in every way a real one can.
//!
//! It runs one batch at a time, in the order received, as real ones do. It knows no clock: it answers what it hears with
//! [`Act`]s, and the world carries them out.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use shoal_scheduler::{
    Attempt, BatchFailure, BatchId, Budget, CloseReason, Cost, DeviceId, Dispatch, Epoch, Input, ItemOutcome, ModelId,
    ModelState, Probe, RequestId, Slot, WorkerId,
};

use crate::faults::Faults;
use crate::rng::Rng;
use crate::workload::Nature;

/// What a worker is like.
#[derive(Clone, Debug)]
pub struct Profile {
    pub offers: Vec<ModelId>,
    /// Batches it takes at a time, one running and the others waiting.
    pub slots: u32,
    /// Of each credit; at most so much less in a thousand.
    pub budget: Budget,
    pub budget_jitter_per_mille: u64,
    /// Time of a batch: this plus these per row and token.
    pub batch_base: Duration,
    pub batch_per_row: Duration,
    pub batch_per_token: Duration,
    pub load_time: Duration,
    /// Rows of a batch beyond which it runs out of memory.
    pub memory_rows: u32,
    /// Whether it reports items as they are done and not all at the end.
    pub streams: bool,
}

/// One request of a batch, as the worker finds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub request: RequestId,
    pub cost: Cost,
    pub nature: Nature,
}

/// What the server tells a worker.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    Run(Dispatch, Vec<Item>),
    Probe(Probe),
    Cancel(BatchId, Vec<RequestId>),
    Load(ModelId),
    Unload(ModelId),
}

/// What a worker does next, planned by itself.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Loaded(ModelId),
    Report(RequestId),
    Mute,
    End(Option<BatchFailure>),
    Die,
    Hang,
}

/// What a worker asks of the world.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// On the control stream, in order.
    Control(Input),
    /// On the data stream, in order.
    Data(Input),
    Later(Duration, Step),
    /// It has crashed.
    Died,
    /// It has finished and says goodbye.
    Left,
    /// It is going to look as if one of its requests were bad.
    Struck,
}

/// One modelled worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub id: WorkerId,
    pub epoch: Epoch,
    /// Counts its connections; what an earlier one planned is void.
    pub life: u64,
    pub is_up: bool,
    profile: Profile,
    rng: Rng,
    held: BTreeSet<ModelId>,
    waiting: VecDeque<Job>,
    running: Option<Job>,
    is_stalled: bool,
    is_leaving: bool,
}

#[derive(Debug)]
struct Job {
    dispatch: Dispatch,
    items: Vec<Item>,
    /// Rows and tokens that nobody asked for.
    made_up: (u32, u32),
    cancelled: BTreeSet<RequestId>,
}

impl Worker {
    pub(crate) fn new(id: WorkerId, profile: Profile, rng: Rng) -> Self {
        Self {
            id,
            epoch: Epoch(0),
            life: 0,
            is_up: false,
            profile,
            rng,
            held: BTreeSet::new(),
            waiting: VecDeque::new(),
            running: None,
            is_stalled: false,
            is_leaving: false,
        }
    }

    /// A new life begins.
    pub(crate) fn connect(&mut self, epoch: Epoch) -> Vec<Act> {
        self.disconnect();
        (self.epoch, self.is_up) = (epoch, true);
        let device = DeviceId(self.id.0);
        let up = Input::WorkerUp { worker: self.id, epoch, device, models: self.profile.offers.clone() };
        let credits: Vec<_> = (0..self.profile.slots).map(|slot| self.credit(Slot(slot))).collect();
        std::iter::once(Act::Control(up)).chain(credits).collect()
    }

    /// The life ends, with everything in it.
    pub(crate) fn disconnect(&mut self) {
        self.life += 1;
        (self.is_up, self.is_stalled, self.is_leaving) = (false, false, false);
        self.held.clear();
        self.waiting.clear();
        self.running = None;
    }

    /// It stops without a word.
    pub(crate) fn stall(&mut self) {
        self.is_stalled = true;
    }

    /// It takes nothing new, finishes, and goes.
    pub(crate) fn leave(&mut self) -> Vec<Act> {
        self.is_leaving = true;
        if self.running.is_none() { vec![Act::Left] } else { Vec::new() }
    }

    /// It drops a model from memory on its own.
    pub(crate) fn evict(&mut self) -> Vec<Act> {
        let Some(model) = self.held.pop_first() else { return Vec::new() };
        vec![self.model_state(model, ModelState::Unloaded)]
    }

    /// It hears from the server.
    pub(crate) fn hear(&mut self, order: Order, faults: &Faults) -> Vec<Act> {
        if self.is_stalled {
            return Vec::new();
        }
        match order {
            Order::Run(dispatch, items) => {
                self.waiting.push_back(Job { dispatch, items, made_up: (0, 0), cancelled: BTreeSet::new() });
                self.begin_if_idle(faults)
            }
            Order::Probe(Probe { batch, worker, epoch, slot, model, attempt, rows, tokens }) => {
                let (close, requests) = (CloseReason::Drained, Vec::new());
                let dispatch = Dispatch { batch, worker, epoch, slot, model, attempt, close, requests };
                let made_up = (rows, rows * tokens);
                self.waiting.push_back(Job { dispatch, items: Vec::new(), made_up, cancelled: BTreeSet::new() });
                self.begin_if_idle(faults)
            }
            Order::Cancel(batch, requests) => {
                let jobs = self.waiting.iter_mut().chain(&mut self.running);
                if let Some(job) = jobs.into_iter().find(|job| job.dispatch.batch == batch) {
                    job.cancelled.extend(requests);
                }
                Vec::new()
            }
            Order::Load(model) => {
                let loading = self.model_state(model, ModelState::Loading);
                vec![loading, Act::Later(self.profile.load_time, Step::Loaded(model))]
            }
            Order::Unload(model) => {
                self.held.remove(&model);
                vec![self.model_state(model, ModelState::Unloaded)]
            }
        }
    }

    /// It does what it planned.
    pub(crate) fn step(&mut self, step: Step, faults: &Faults) -> Vec<Act> {
        if self.is_stalled {
            return Vec::new();
        }
        match step {
            Step::Loaded(model) if self.rng.per_mille(faults.load_fail_per_mille) => {
                vec![self.model_state(model, ModelState::Failed)]
            }
            Step::Loaded(model) => {
                self.held.insert(model);
                vec![self.model_state(model, ModelState::Ready)]
            }
            Step::Report(request) => self.report(request, faults),
            Step::Mute => vec![Act::Struck],
            Step::End(failure) => self.end(failure, faults),
            Step::Die => vec![Act::Died],
            Step::Hang => {
                self.stall();
                Vec::new()
            }
        }
    }

    fn begin_if_idle(&mut self, faults: &Faults) -> Vec<Act> {
        if self.running.is_some() {
            return Vec::new();
        }
        let Some(job) = self.waiting.pop_front() else {
            return if self.is_leaving { vec![Act::Left] } else { Vec::new() };
        };
        let acts = self.plan(&job, faults);
        self.running = Some(job);
        acts
    }

    /// Decides how a batch is going to go, now that it begins.
    fn plan(&mut self, job: &Job, faults: &Faults) -> Vec<Act> {
        let items: Vec<_> = job.items.iter().filter(|item| !job.cancelled.contains(&item.request)).collect();
        let (mut rows, mut tokens): (u32, u32) =
            (items.iter().map(|item| item.cost.rows).sum(), items.iter().map(|item| item.cost.tokens).sum());
        (rows, tokens) = (rows + job.made_up.0, tokens + job.made_up.1);
        let profile = &self.profile;
        let time = profile.batch_base + profile.batch_per_row * rows + profile.batch_per_token * tokens;
        if !self.held.contains(&job.dispatch.model) {
            return vec![Act::Later(profile.batch_base, Step::End(Some(BatchFailure::Device)))];
        }
        if rows > profile.memory_rows || items.iter().any(|item| item.nature == Nature::TooBig) {
            return vec![Act::Later(time / 4, Step::End(Some(BatchFailure::OutOfMemory)))];
        }
        let share = time / (u32::try_from(items.len()).unwrap_or(u32::MAX) + 1);
        let culprit = items.iter().position(|item| trouble(item.nature).is_some());
        let reported = if profile.streams { culprit.unwrap_or(items.len()) } else { items.len() };
        let mut acts = Vec::new();
        let mut at = Duration::ZERO;
        for item in items.iter().take(reported).filter(|_| profile.streams || culprit.is_none()) {
            at += share;
            match item.nature {
                Nature::Mutes => {}
                _ if self.rng.per_mille(faults.mute_per_mille) => acts.push(Act::Later(at, Step::Mute)),
                _ => acts.push(Act::Later(at, Step::Report(item.request))),
            }
        }
        let end = if self.rng.per_mille(faults.device_per_mille) {
            let reasons = [BatchFailure::Device, BatchFailure::Timeout];
            // Wherever it had come to.
            acts.truncate(usize::try_from(self.rng.below(acts.len() as u64 + 1)).unwrap_or(0));
            Step::End(Some(*self.rng.pick(&reasons)))
        } else {
            culprit.and_then(|at| trouble(items[at].nature)).unwrap_or(Step::End(None))
        };
        acts.push(Act::Later(time, end));
        acts
    }

    fn report(&mut self, request: RequestId, faults: &Faults) -> Vec<Act> {
        let (worker, epoch) = (self.id, self.epoch);
        let Some(job) = &self.running else { return Vec::new() };
        // A cancelled item may have been computed by then, or not.
        if job.cancelled.contains(&request) && self.rng.per_mille(500) {
            return Vec::new();
        }
        let is_refused = job.items.iter().any(|item| item.request == request && item.nature == Nature::Refused);
        let outcome = if is_refused { ItemOutcome::Failed } else { ItemOutcome::Ok };
        let (batch, attempt) = (job.dispatch.batch, job.dispatch.attempt);
        let done = |batch, attempt| Act::Data(Input::ItemDone { worker, epoch, batch, attempt, request, outcome });
        let mut acts = vec![done(batch, attempt)];
        if self.rng.per_mille(faults.echo_per_mille) {
            // The wrong ones come first, while the request is still waited for.
            match self.rng.below(3) {
                0 => acts.push(done(batch, attempt)),
                1 => acts.insert(0, done(batch, Attempt(attempt.0 + 1))),
                _ => acts.insert(0, done(BatchId(batch.0.saturating_sub(1)), attempt)),
            }
        }
        acts
    }

    fn end(&mut self, failure: Option<BatchFailure>, faults: &Faults) -> Vec<Act> {
        let Some(job) = self.running.take() else { return Vec::new() };
        let (worker, epoch) = (self.id, self.epoch);
        let Dispatch { batch, attempt, slot, .. } = job.dispatch;
        let end = match failure {
            Some(reason) => Input::BatchFailed { worker, epoch, batch, attempt, reason },
            None => Input::BatchEnd { worker, epoch, batch, attempt, compute: self.profile.batch_base },
        };
        let mut acts = vec![Act::Data(end.clone())];
        if self.rng.per_mille(faults.echo_per_mille) {
            acts.push(Act::Data(end));
        }
        if !self.is_leaving {
            if self.rng.per_mille(faults.regrant_per_mille) {
                let budget = Budget { rows: 0, tokens: 0, bytes: 0 };
                acts.extend([self.credit(slot), Act::Control(Input::WorkerCredit { worker, epoch, slot, budget })]);
            }
            acts.push(self.credit(slot));
        }
        acts.extend(self.begin_if_idle(faults));
        acts
    }

    fn credit(&mut self, slot: Slot) -> Act {
        let less = self.rng.below(self.profile.budget_jitter_per_mille + 1);
        let Budget { rows, tokens, bytes } = self.profile.budget;
        let shrink = |size: u64| size - size * less / 1_000;
        let budget = Budget {
            rows: u32::try_from(shrink(rows.into())).unwrap_or(rows).max(1),
            tokens: u32::try_from(shrink(tokens.into())).unwrap_or(tokens),
            bytes: shrink(bytes),
        };
        Act::Control(Input::WorkerCredit { worker: self.id, epoch: self.epoch, slot, budget })
    }

    fn model_state(&self, model: ModelId, state: ModelState) -> Act {
        Act::Control(Input::ModelState { worker: self.id, epoch: self.epoch, model, state })
    }
}

/// How a batch ends with such a request in it, if it does not go well.
fn trouble(nature: Nature) -> Option<Step> {
    match nature {
        Nature::Breaks => Some(Step::End(Some(BatchFailure::Item))),
        Nature::Crashes => Some(Step::Die),
        Nature::Hangs => Some(Step::Hang),
        Nature::Sound | Nature::Refused | Nature::Mutes | Nature::TooBig => None,
    }
}
