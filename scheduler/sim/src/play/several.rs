//! Plays a scenario against several production cores that share the workers.
//!
//! Calls come to them at random. Each core knows its own calls only; what they know of each other comes through the
//! workers, each of which has an [`Arbiter`]. Everything that is said takes the worker's link, in order.

mod station;

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_scheduler::{
    Arbiter, Dispatch, DownCause, Epoch, Group, GroupId, Input, Limits, ModelConfig, ModelId, ModelState, Output,
    Request, RequestId, Scheduler, SchedulerId, Sharing, Slot, Timestamp, Want, WorkerId,
};

use self::station::Station;
use super::device::{Device, Ending, Load};
use super::{Fate, Outcome, RESTART, Record};
use crate::clock::Agenda;
use crate::fnv::Fnv;
use crate::rng::Rng;
use crate::scenario::{Absence, Ask, Curve, ModelSpec, Scenario, Traffic};

/// Who schedules.
#[derive(Clone, Debug)]
pub struct Crew {
    /// How many schedulers there are. At least 1.
    pub schedulers: u32,
    /// Which of them is killed when, counted from 0. What it had is lost to its clients.
    pub absences: Vec<(u32, Absence)>,
    /// Of how many of them parts may run as one batch.
    pub parts_max: u32,
    /// How long workers wait for an answer.
    pub patience: Duration,
    /// Whether every core checks its invariants after every input.
    pub is_checked: bool,
}

impl Crew {
    /// So many schedulers, of all of which parts may run as one batch.
    pub fn of(schedulers: u32) -> Self {
        Self {
            schedulers,
            absences: Vec::new(),
            parts_max: schedulers.max(1),
            patience: Duration::from_millis(10),
            is_checked: false,
        }
    }
}

/// What schedulers and workers said to each other, beside batches and their results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Talk {
    /// Wants told, and taken back.
    pub bids: u64,
    /// Turns given.
    pub turns: u64,
    /// Turns answered with nothing.
    pub passes: u64,
    /// Batches of schedulers; each is a part of a batch of a device.
    pub parts: u64,
}

/// What a scheduler says to a worker.
#[derive(Debug)]
enum ToWorker {
    Bid(ModelId, Option<Want>),
    Pass(Slot),
    Dispatch(Dispatch),
}

#[derive(Debug)]
enum Happening {
    /// Something said reaches a scheduler, if it still lives the life it was said to.
    ToScheduler {
        scheduler: usize,
        life: u64,
        input: Input,
    },
    /// Something said reaches a worker, if both still live the lives they did.
    ToWorker {
        worker: usize,
        epoch: Epoch,
        scheduler: usize,
        life: u64,
        said: ToWorker,
    },
    /// A device is through with a batch.
    Ended {
        worker: usize,
        epoch: Epoch,
        launch: u64,
        ending: Ending,
        compute: Duration,
    },
    /// A worker's arbiter wanted to be asked again.
    Tick {
        worker: usize,
    },
    WorkerKilled(usize),
    WorkerReturned(usize),
    SchedulerKilled(usize),
    SchedulerReturned(usize),
}

/// One scheduler.
#[derive(Debug)]
struct Front {
    core: Scheduler,
    /// Counted up at each return.
    life: u64,
    is_up: bool,
}

#[derive(Debug)]
struct Play<'a> {
    crew: &'a Crew,
    fronts: Vec<Front>,
    stations: Vec<Station>,
    configs: Vec<ModelConfig>,
    curves: Vec<Curve>,
    memory_max: u64,
    agenda: Agenda<Happening>,
    /// Who gets the next call.
    routes: Rng,
    /// By request, which life of which scheduler has it.
    owners: Vec<(usize, u64)>,
    open: u64,
    hash: Fnv,
    outcome: Outcome,
    talk: Talk,
}

/// Runs a scenario under several schedulers, each with each model configured as `configure` says, until every request has
/// ended.
///
/// # Panics
///
/// Panics when the scenario is not [plain](Scenario::is_plain).
pub fn play(scenario: &Scenario, crew: &Crew, configure: impl Fn(&ModelSpec) -> ModelConfig) -> (Outcome, Talk) {
    assert!(scenario.is_plain(), "{} cannot be played with several schedulers", scenario.name);
    let mut play = Play::new(scenario, crew, scenario.models.iter().map(configure).collect());
    play.begin();
    play.run(Traffic::new(scenario));
    (Outcome { hash: play.hash.finish(), ..play.outcome }, play.talk)
}

fn limits() -> Limits {
    Limits { workers_are_shared: true, ..Limits::default() }
}

impl<'a> Play<'a> {
    fn new(scenario: &Scenario, crew: &'a Crew, configs: Vec<ModelConfig>) -> Self {
        let mut rng = Rng::new(!scenario.seed);
        let station = |(id, spec)| Station {
            device: Device::new(spec, rng.fork()),
            id: WorkerId(id),
            epoch: Epoch(0),
            is_up: false,
            arbiter: Arbiter::new(Sharing { slots: spec.slots, patience: crew.patience, parts_max: crew.parts_max }),
            sent: BTreeMap::new(),
            running: BTreeMap::new(),
        };
        let stations = (1..).zip(&scenario.workers).map(station).collect();
        let front = |_| Front { core: Scheduler::new(limits()), life: 0, is_up: false };
        Self {
            crew,
            fronts: (0..crew.schedulers.max(1)).map(front).collect(),
            stations,
            configs,
            curves: scenario.models.iter().map(|model| model.curve).collect(),
            memory_max: scenario.faults.memory_max.unwrap_or(u64::MAX),
            agenda: Agenda::new(Timestamp::ZERO),
            routes: rng.fork(),
            owners: Vec::new(),
            open: 0,
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
            talk: Talk::default(),
        }
    }

    /// Brings everybody up and plans their absences.
    fn begin(&mut self) {
        (0..self.fronts.len()).for_each(|at| self.start_scheduler(at));
        for at in 0..self.stations.len() {
            self.start_worker(at);
            for Absence { from, until } in self.stations[at].device.spec.absences.clone() {
                self.agenda.at(Timestamp::ZERO + from, Happening::WorkerKilled(at));
                if let Some(until) = until {
                    self.agenda.at(Timestamp::ZERO + until, Happening::WorkerReturned(at));
                }
            }
        }
        for (at, Absence { from, until }) in &self.crew.absences {
            let at = *at as usize;
            self.agenda.at(Timestamp::ZERO + *from, Happening::SchedulerKilled(at));
            if let Some(until) = until {
                self.agenda.at(Timestamp::ZERO + *until, Happening::SchedulerReturned(at));
            }
        }
    }

    /// Does whatever is next until nothing is left. Of things at one time, what was said comes first, then arrivals.
    fn run(&mut self, mut traffic: Traffic) {
        let mut arrival = traffic.next();
        while arrival.is_some() || self.open > 0 {
            let arrives = arrival.map_or(Timestamp::MAX, |ask| ask.at);
            let happens = self.agenda.next_at().unwrap_or(Timestamp::MAX);
            let up = self.fronts.iter().enumerate().filter(|(_, front)| front.is_up);
            let wakes = up.filter_map(|(at, front)| Some((front.core.poll_timeout()?.0, at))).min();
            let next = arrives.min(happens).min(wakes.map_or(Timestamp::MAX, |(at, _)| at));
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
                    self.arrive(ask);
                }
                arrival = traffic.next();
            } else if let Some((_, at)) = wakes {
                self.tell(at, Input::Tick);
            }
        }
    }

    fn arrive(&mut self, ask: Ask) {
        let number = self.outcome.requests.len() as u64;
        self.outcome.requests.push(Record::asked(&ask, self.configs[ask.model.0 as usize].objective));
        self.open += 1;
        let up: Vec<usize> = (0..self.fronts.len()).filter(|at| self.fronts[*at].is_up).collect();
        if up.is_empty() {
            self.owners.push((0, 0));
            self.end(RequestId(number), Fate::Shed(self.agenda.now()));
            return;
        }
        let at = *self.routes.pick(&up);
        self.owners.push((at, self.fronts[at].life));
        self.tell(
            at,
            Input::SubmitGroup(Group {
                id: GroupId(number),
                model: ask.model,
                tenant: ask.tenant,
                class: ask.class,
                deadline: ask.deadline,
                requests: vec![Request { id: RequestId(number), cost: ask.cost }],
            }),
        );
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ToScheduler { scheduler, life, input } => {
                if self.fronts[scheduler].is_up && self.fronts[scheduler].life == life {
                    self.tell(scheduler, input);
                }
            }
            Happening::ToWorker { worker, epoch, scheduler, life, said } => {
                let is_alive = self.fronts[scheduler].is_up && self.fronts[scheduler].life == life;
                if is_alive && self.stations[worker].is_up && self.stations[worker].epoch == epoch {
                    self.hear(worker, scheduler, life, said);
                    self.act(worker);
                }
            }
            Happening::Ended { worker, epoch, launch, ending, compute } => {
                if self.stations[worker].is_up && self.stations[worker].epoch == epoch {
                    self.report(worker, launch, ending);
                    self.stations[worker].arbiter.ended(self.agenda.now(), launch, compute);
                    self.act(worker);
                }
            }
            Happening::Tick { worker } => {
                if self.stations[worker].is_up {
                    self.stations[worker].arbiter.tick(self.agenda.now());
                    self.act(worker);
                }
            }
            Happening::WorkerKilled(at) => {
                let (worker, epoch) = (self.stations[at].id, self.stations[at].epoch);
                if self.stations[at].is_up {
                    self.stop_worker(at);
                    self.say_to_all(at, &Input::WorkerDown { worker, epoch, cause: DownCause::Lost });
                }
            }
            Happening::WorkerReturned(at) => {
                if !self.stations[at].is_up {
                    self.start_worker(at);
                }
            }
            Happening::SchedulerKilled(at) => self.stop_scheduler(at),
            Happening::SchedulerReturned(at) => self.start_scheduler(at),
        }
    }

    fn start_scheduler(&mut self, at: usize) {
        let front = &mut self.fronts[at];
        if front.is_up {
            return;
        }
        *front = Front { core: Scheduler::new(limits()), life: front.life + 1, is_up: true };
        self.tell(at, Input::ConfigChanged(self.configs.clone()));
        for worker in 0..self.stations.len() {
            if self.stations[worker].is_up {
                self.attach(worker, at);
            }
        }
    }

    /// A scheduler is gone, with all that it had. Workers see the end of its connections.
    fn stop_scheduler(&mut self, at: usize) {
        if !self.fronts[at].is_up {
            return;
        }
        self.fronts[at].is_up = false;
        let (now, life) = (self.agenda.now(), self.fronts[at].life);
        for number in 0..self.owners.len() {
            if self.owners[number] == (at, life) && self.outcome.requests[number].fate == Fate::Open {
                self.end(RequestId(number as u64), Fate::Shed(now));
            }
        }
        for worker in 0..self.stations.len() {
            let station = &mut self.stations[worker];
            if station.is_up {
                station.sent.retain(|(scheduler, _), _| scheduler.0 as usize != at);
                station.arbiter.leave(now, SchedulerId(at as u32));
                self.act(worker);
            }
        }
    }

    /// One input of a scheduler and its outputs.
    fn tell(&mut self, at: usize, input: Input) {
        self.fronts[at].core.handle(self.agenda.now(), input);
        if self.crew.is_checked {
            self.fronts[at].core.assert_invariants();
        }
        while let Some(output) = self.fronts[at].core.poll_output() {
            self.take(at, output);
        }
    }

    fn take(&mut self, at: usize, output: Output) {
        let now = self.agenda.now();
        self.hash.number(now.as_nanos());
        self.hash.number(at as u64);
        match output {
            Output::Complete { request } => {
                self.hash.number(request.0);
                self.end(request, Fate::Answered(now));
            }
            Output::Fail { request, .. } => self.end(request, Fate::Shed(now)),
            Output::Reject { group, .. } => self.end(RequestId(group.0), Fate::Shed(now)),
            Output::Bid { worker, epoch, model, want } => {
                self.talk.bids += 1;
                self.send(at, worker, epoch, ToWorker::Bid(model, want));
            }
            Output::Pass { worker, epoch, slot } => {
                self.talk.passes += 1;
                self.send(at, worker, epoch, ToWorker::Pass(slot));
            }
            Output::Dispatch(dispatch) => {
                self.hash.number(dispatch.batch.0);
                dispatch.requests.iter().for_each(|request| self.hash.number(request.0));
                self.send(at, dispatch.worker, dispatch.epoch, ToWorker::Dispatch(dispatch));
            }
            Output::Load { worker, epoch, model } => {
                let (scheduler, life) = (at, self.fronts[at].life);
                let input = Input::ModelState { worker, epoch, model, state: ModelState::Ready };
                self.agenda.after(Duration::ZERO, Happening::ToScheduler { scheduler, life, input });
            }
            Output::Replace { worker, epoch, .. } => {
                let at = worker.0 as usize - 1;
                if self.stations[at].is_up && self.stations[at].epoch == epoch {
                    self.stop_worker(at);
                    self.say_to_all(at, &Input::WorkerDown { worker, epoch, cause: DownCause::Lost });
                    self.agenda.after(RESTART, Happening::WorkerReturned(at));
                }
            }
            // Nobody asks for probes here.
            Output::Probe(_) | Output::Calibrated { .. } => {}
            Output::Late { .. } | Output::CancelRunning { .. } | Output::Unload { .. } | Output::Drained => {}
        }
    }

    /// A scheduler says something to a worker.
    fn send(&mut self, scheduler: usize, worker: WorkerId, epoch: Epoch, said: ToWorker) {
        let worker = worker.0 as usize - 1;
        let (link, life) = (self.stations[worker].device.spec.link, self.fronts[scheduler].life);
        self.agenda.after(link, Happening::ToWorker { worker, epoch, scheduler, life, said });
    }

    /// A request has its one end.
    fn end(&mut self, request: RequestId, fate: Fate) {
        let record = &mut self.outcome.requests[request.0 as usize];
        assert_eq!(record.fate, Fate::Open, "request {request} ends once");
        record.fate = fate;
        self.open -= 1;
    }
}
