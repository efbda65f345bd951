//! One run: the core, its workers, its clients and everything between them, in virtual time.
//!
//! The world plays the driver's part: it tells the core what arrives, takes every output, and comes back when the core
//! asked to be woken. Each input is followed by the core's own invariants and by the [`Judge`].

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use shoal_scheduler::{
    Cost, DownCause, Epoch, GroupId, Input, ModelConfig, ModelId, ModelState, Output, RequestId, Scheduler, Timestamp,
    WorkerId,
};

use crate::check::{Judge, Violation};
use crate::clock::Agenda;
use crate::faults::Strike;
use crate::plan::{Knowledge, Plan, draw_model};
use crate::rng::Rng;
use crate::transcript::{Entry, Transcript, What};
use crate::worker::{Act, Item, Order, Step, Worker};
use crate::workload::{Arrivals, Nature};

/// Inputs in all. A run that takes more does not come to rest.
const INPUTS_MAX: usize = 200_000;

/// How a run went.
#[derive(Debug)]
pub struct Run {
    pub transcript: Transcript,
    pub verdict: Result<(), Violation>,
}

/// What is going to happen.
#[derive(Debug)]
enum Happening {
    Arrival,
    Cancel(GroupId),
    /// From a life of a worker to the core.
    Message {
        worker: WorkerId,
        life: u64,
        input: Input,
    },
    /// The server finds out that a worker is gone.
    Loss {
        worker: WorkerId,
        epoch: Epoch,
        cause: DownCause,
    },
    Order {
        worker: WorkerId,
        epoch: Epoch,
        order: Order,
    },
    Step {
        worker: WorkerId,
        life: u64,
        step: Step,
    },
    Connection(WorkerId),
    Strike,
    Change,
    Drain(Duration),
    /// The server has looked up what it knows of a model.
    Lookup(ModelId),
}

/// A run under way.
#[derive(Debug)]
struct World {
    plan: Plan,
    rng: Rng,
    agenda: Agenda<Happening>,
    core: Scheduler,
    arrivals: Arrivals,
    workers: BTreeMap<WorkerId, Worker>,
    last_epoch: u64,
    /// When the last message of each worker's control and data stream arrives.
    arriving: BTreeMap<(WorkerId, bool), Timestamp>,
    /// Lives whose last words are lost.
    muted: BTreeSet<(WorkerId, u64)>,
    /// Until when the last words of a life are held up.
    held_up: BTreeMap<(WorkerId, u64), Timestamp>,
    truth: BTreeMap<RequestId, (Cost, Nature)>,
    strikes: u64,
    changes: u64,
    inputs: usize,
    judge: Judge,
    transcript: Transcript,
}

/// Runs a plan to its end, or to the first violation.
pub fn run(plan: Plan) -> Run {
    let mut world = World::new(plan);
    let verdict = world.run();
    Run { transcript: world.transcript, verdict }
}

impl World {
    fn new(plan: Plan) -> Self {
        let mut rng = Rng::new(!plan.seed);
        let arrivals = Arrivals::new(plan.workload.clone(), rng.fork());
        let workers = (1..).zip(&plan.workers);
        let workers =
            workers.map(|(id, profile)| (WorkerId(id), Worker::new(WorkerId(id), profile.clone(), rng.fork())));
        Self {
            agenda: Agenda::new(Timestamp::from_millis(1_000)),
            core: Scheduler::new(plan.limits),
            arrivals,
            workers: workers.collect(),
            last_epoch: 0,
            arriving: BTreeMap::new(),
            muted: BTreeSet::new(),
            held_up: BTreeMap::new(),
            truth: BTreeMap::new(),
            strikes: 0,
            changes: 0,
            inputs: 0,
            judge: Judge::new(plan.limits),
            transcript: Transcript::default(),
            rng,
            plan,
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        self.begin()?;
        while let Some(at) = self.next_at() {
            self.inputs += 1;
            if self.inputs > INPUTS_MAX {
                return Err(Violation { check: "rest", how: format!("no rest after {INPUTS_MAX} inputs") });
            }
            match at {
                Next::Tick(at) => {
                    self.agenda.advance(at);
                    self.tell(Input::Tick)?;
                }
                Next::Happening => {
                    if let Some(happening) = self.agenda.pop() {
                        self.happen(happening)?;
                    }
                }
            }
        }
        self.note(What::Finished(self.core.counts()))
    }

    fn begin(&mut self) -> Result<(), Violation> {
        self.tell(Input::ConfigChanged(self.plan.models.clone()))?;
        for worker in self.workers.keys().copied().collect::<Vec<_>>() {
            let delay = self.rng.time(Duration::ZERO, self.plan.away.1);
            self.agenda.after(delay, Happening::Connection(worker));
        }
        self.plan_arrival();
        self.plan_strike();
        self.plan_change();
        if let Some((at, within)) = self.plan.drain {
            self.agenda.after(at, Happening::Drain(within));
        }
        Ok(())
    }

    /// The core's timer or the next event, whichever is first; the timer may be late.
    fn next_at(&mut self) -> Option<Next> {
        let slack = self.rng.time(Duration::ZERO, self.plan.faults.timer_slack_max);
        let tick = self.core.poll_timeout().map(|(at, _)| at + slack);
        match (tick, self.agenda.next_at()) {
            (Some(tick), Some(next)) if tick < next => Some(Next::Tick(tick)),
            (Some(tick), None) => Some(Next::Tick(tick)),
            (_, Some(_)) => Some(Next::Happening),
            (None, None) => None,
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Arrival => self.arrive(),
            Happening::Cancel(group) => self.tell(Input::Cancel(group)),
            Happening::Message { worker, life, input } => self.deliver(worker, life, input),
            Happening::Loss { worker, epoch, cause } => self.tell(Input::WorkerDown { worker, epoch, cause }),
            Happening::Order { worker, epoch, order } => {
                let hears = self.workers.get_mut(&worker).filter(|worker| worker.is_up && worker.epoch == epoch);
                let acts = hears.map(|worker| worker.hear(order, &self.plan.faults)).unwrap_or_default();
                self.act(worker, acts)
            }
            Happening::Step { worker, life, step } => {
                let steps = self.workers.get_mut(&worker).filter(|worker| worker.life == life);
                let acts = steps.map(|worker| worker.step(step, &self.plan.faults)).unwrap_or_default();
                self.act(worker, acts)
            }
            Happening::Connection(worker) => self.connect(worker),
            Happening::Strike => self.strike(),
            Happening::Change => self.change(),
            Happening::Lookup(model) => match self.plan.knowledge.get(&model) {
                Some(Knowledge::Cost(cost)) => self.tell(Input::CostKnown { model, cost: *cost }),
                Some(Knowledge::Row(row)) => self.tell(Input::Calibrate { model, row: *row }),
                None => Ok(()),
            },
            Happening::Drain(within) => self.tell(Input::Drain { deadline: self.agenda.now() + within }),
        }
    }

    fn arrive(&mut self) -> Result<(), Violation> {
        let call = self.arrivals.next_call(self.agenda.now());
        for (request, nature) in &call.natures {
            let cost = call.group.requests.iter().find(|of| of.id == *request).map(|of| of.cost).unwrap_or_default();
            self.truth.insert(*request, (cost, *nature));
            if *nature != Nature::Sound {
                self.note(What::Nature { request: *request, nature: *nature })?;
            }
        }
        if let Some(delay) = call.cancel_after {
            self.agenda.after(delay, Happening::Cancel(call.group.id));
        }
        self.plan_arrival();
        self.tell(Input::SubmitGroup(call.group))
    }

    /// A message arrives, unless its sender died and it is lost or held up on the way.
    fn deliver(&mut self, worker: WorkerId, life: u64, input: Input) -> Result<(), Violation> {
        let is_dead = self.workers.get(&worker).is_some_and(|worker| worker.life != life);
        if is_dead && self.muted.contains(&(worker, life)) {
            return Ok(());
        }
        if is_dead && self.plan.faults.delivers_late && self.rng.per_mille(300) {
            let until = self.agenda.now() + self.rng.time(Duration::ZERO, self.plan.away.1);
            let held_up = self.held_up.entry((worker, life)).or_default();
            *held_up = until.max(*held_up);
        }
        // What was sent behind it is held up with it: a stream keeps its order.
        match self.held_up.get(&(worker, life)) {
            Some(until) if *until > self.agenda.now() => {
                self.agenda.at(*until, Happening::Message { worker, life, input });
                Ok(())
            }
            _ => {
                if let Input::ModelState { model, state: ModelState::Ready, .. } = input
                    && self.plan.knowledge.contains_key(&model)
                {
                    self.agenda.after(self.plan.latency.1, Happening::Lookup(model));
                }
                self.tell(input)
            }
        }
    }

    /// Carries out what a worker asks for.
    fn act(&mut self, id: WorkerId, acts: Vec<Act>) -> Result<(), Violation> {
        for act in acts {
            let Some((life, epoch)) = self.workers.get(&id).map(|worker| (worker.life, worker.epoch)) else { break };
            match act {
                Act::Control(input) => self.send(id, life, false, input),
                Act::Data(input) => self.send(id, life, true, input),
                Act::Later(delay, step) => self.agenda.after(delay, Happening::Step { worker: id, life, step }),
                Act::Died => self.lose(id, DownCause::Crashed)?,
                Act::Left => self.lose(id, DownCause::Left)?,
                Act::Struck => self.note(What::Struck { worker: id, epoch })?,
            }
        }
        Ok(())
    }

    /// Each stream of a worker keeps its order; the two do not wait for each other.
    fn send(&mut self, worker: WorkerId, life: u64, is_data: bool, input: Input) {
        let at = self.arrival_after(worker, &[is_data]);
        self.arriving.insert((worker, is_data), at);
        self.agenda.at(at, Happening::Message { worker, life, input });
    }

    /// When something sent now arrives that may not overtake what is on these streams.
    fn arrival_after(&mut self, worker: WorkerId, streams: &[bool]) -> Timestamp {
        let at = self.agenda.now() + self.rng.time(self.plan.latency.0, self.plan.latency.1);
        streams.iter().filter_map(|is_data| self.arriving.get(&(worker, *is_data))).fold(at, |at, last| at.max(*last))
    }

    /// A worker's life ends, and the server finds out, unless it has by then met the next one.
    fn lose(&mut self, id: WorkerId, cause: DownCause) -> Result<(), Violation> {
        let at = self.arrival_after(id, &[false, true]);
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.is_up) else { return Ok(()) };
        let (life, epoch) = (worker.life, worker.epoch);
        worker.disconnect();
        let faults = &self.plan.faults;
        if faults.loses_last_words || faults.delivers_late {
            if faults.loses_last_words {
                self.muted.insert((id, life));
            }
            // The server may take a batch for unfinished that was finished.
            self.note(What::Struck { worker: id, epoch })?;
        }
        self.agenda.at(at, Happening::Loss { worker: id, epoch, cause });
        self.plan_return(id);
        Ok(())
    }

    fn connect(&mut self, id: WorkerId) -> Result<(), Violation> {
        self.last_epoch += 1;
        let Some(worker) = self.workers.get_mut(&id) else { return Ok(()) };
        let mut acts = worker.connect(Epoch(self.last_epoch));
        if self.rng.per_mille(self.plan.faults.echo_per_mille) {
            acts.extend(acts.first().cloned());
        }
        self.act(id, acts)
    }

    fn strike(&mut self) -> Result<(), Violation> {
        self.plan_strike();
        let ids: Vec<_> = self.workers.iter().filter(|(_, worker)| worker.is_up).map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let (id, strike) = (*self.rng.pick(&ids), *self.rng.pick(&self.plan.faults.strikes));
        let epoch = self.workers[&id].epoch;
        match strike {
            Strike::Crash => {
                self.note(What::Struck { worker: id, epoch })?;
                self.lose(id, DownCause::Crashed)
            }
            Strike::Kill => self.lose(id, DownCause::Lost),
            Strike::Stall => {
                self.note(What::Struck { worker: id, epoch })?;
                self.workers.get_mut(&id).into_iter().for_each(Worker::stall);
                Ok(())
            }
            Strike::Flap => self.connect(id),
            Strike::Leave => {
                let acts = self.workers.get_mut(&id).map(Worker::leave).unwrap_or_default();
                self.act(id, acts)
            }
            Strike::Evict => {
                let acts = self.workers.get_mut(&id).map(Worker::evict).unwrap_or_default();
                self.act(id, acts)
            }
        }
    }

    /// Some models are there, some are not, and some have other numbers.
    fn change(&mut self) -> Result<(), Violation> {
        self.plan_change();
        let mut models: Vec<ModelConfig> = Vec::new();
        for model in self.plan.models.clone() {
            match self.rng.below(4) {
                0 => {}
                1 => models.push(draw_model(&mut self.rng, model.id)),
                _ => models.push(model),
            }
        }
        self.tell(Input::ConfigChanged(models))
    }

    /// Tells the core and carries out what it answers.
    fn tell(&mut self, input: Input) -> Result<(), Violation> {
        let mut at = self.agenda.now();
        if self.rng.per_mille(self.plan.faults.reversal_per_mille) {
            at = at - self.rng.time(Duration::ZERO, Duration::from_millis(5));
        }
        self.note_at(at, What::Told(input.clone()))?;
        let handled = catch_unwind(AssertUnwindSafe(|| {
            self.core.handle(at, input);
            self.core.assert_invariants();
        }));
        handled.map_err(|panic| Violation { check: "invariants", how: panic_message(panic.as_ref()) })?;
        while let Some(output) = self.core.poll_output() {
            self.note_at(at, What::Did(output.clone()))?;
            self.carry_out(output);
        }
        self.note_at(at, What::Settled)
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Dispatch(dispatch) => {
                let truth = |request: &RequestId| {
                    let (cost, nature) = self.truth.get(request).copied().unwrap_or((Cost::default(), Nature::Sound));
                    Item { request: *request, cost, nature }
                };
                let items = dispatch.requests.iter().map(truth).collect();
                let (worker, epoch) = (dispatch.worker, dispatch.epoch);
                self.order(worker, epoch, Order::Run(dispatch, items));
            }
            Output::Probe(probe) => self.order(probe.worker, probe.epoch, Order::Probe(probe)),
            Output::CancelRunning { worker, epoch, batch, requests } => {
                self.order(worker, epoch, Order::Cancel(batch, requests));
            }
            Output::Load { worker, epoch, model } => self.order(worker, epoch, Order::Load(model)),
            Output::Unload { worker, epoch, model } => self.order(worker, epoch, Order::Unload(model)),
            Output::Replace { worker, epoch, .. } => {
                let is_same = self.workers.get(&worker).is_some_and(|worker| worker.is_up && worker.epoch == epoch);
                if is_same {
                    self.workers.get_mut(&worker).into_iter().for_each(Worker::disconnect);
                    self.plan_return(worker);
                }
            }
            Output::Complete { .. }
            | Output::Fail { .. }
            | Output::Late { .. }
            | Output::Reject { .. }
            | Output::Bid { .. }
            | Output::Pass { .. }
            | Output::Calibrated { .. }
            | Output::Drained => {}
        }
    }

    fn order(&mut self, worker: WorkerId, epoch: Epoch, order: Order) {
        // The core sends in order and the link keeps it: one fixed latency is enough.
        self.agenda.after(self.plan.latency.1, Happening::Order { worker, epoch, order });
    }

    fn plan_return(&mut self, worker: WorkerId) {
        if !self.rng.per_mille(self.plan.lost_per_mille) {
            let delay = self.rng.time(self.plan.away.0, self.plan.away.1);
            self.agenda.after(delay, Happening::Connection(worker));
        }
    }

    fn plan_arrival(&mut self) {
        if let Some(gap) = self.arrivals.next_gap() {
            self.agenda.after(gap, Happening::Arrival);
        }
    }

    fn plan_strike(&mut self) {
        if self.strikes < self.plan.faults.strikes_max {
            self.strikes += 1;
            self.agenda.after(self.rng.exponential(self.plan.faults.strike_gap_mean), Happening::Strike);
        }
    }

    fn plan_change(&mut self) {
        if self.changes < self.plan.changes {
            self.changes += 1;
            self.agenda.after(self.rng.exponential(self.plan.change_gap_mean), Happening::Change);
        }
    }

    fn note(&mut self, what: What) -> Result<(), Violation> {
        self.note_at(self.agenda.now(), what)
    }

    fn note_at(&mut self, at: Timestamp, what: What) -> Result<(), Violation> {
        let entry = Entry { at, what };
        let verdict = self.judge.see(&entry);
        self.transcript.0.push(entry);
        verdict
    }
}

/// What comes next.
#[derive(Debug)]
enum Next {
    Tick(Timestamp),
    Happening,
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}
