//! The workers' side of a play: what they hear, what their arbiters want, what their devices run.

use std::collections::BTreeMap;

use shoal_scheduler::{
    Action, Arbiter, Attempt, BatchId, DeviceId, Dispatch, Epoch, Input, ItemOutcome, Launch, ModelId, SchedulerId,
    Sharing, Size, Slot, Timestamp, Turn, WorkerId,
};

use super::{Device, Ending, Happening, Load, Play, Record, ToWorker};

/// A scheduler's batch that a worker has.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) life: u64,
    pub(super) at: Timestamp,
    pub(super) dispatch: Dispatch,
}

/// One worker.
#[derive(Debug)]
pub(super) struct Station {
    pub(super) device: Device,
    pub(super) id: WorkerId,
    pub(super) epoch: Epoch,
    pub(super) is_up: bool,
    pub(super) arbiter: Arbiter,
    /// What was sent and not launched.
    pub(super) sent: BTreeMap<(SchedulerId, Slot), Sent>,
    /// What was launched and did not end.
    pub(super) running: BTreeMap<u64, Vec<(usize, Sent)>>,
}

impl Play<'_> {
    /// A worker comes up with every model and no work.
    pub(super) fn start_worker(&mut self, at: usize) {
        let now = self.agenda.now();
        let (crew, station) = (self.crew, &mut self.stations[at]);
        (station.epoch, station.is_up, station.device.free) = (Epoch(station.epoch.0 + 1), true, now);
        let sharing = Sharing { slots: station.device.spec.slots, patience: crew.patience, parts_max: crew.parts_max };
        station.arbiter = Arbiter::new(sharing);
        for scheduler in 0..self.fronts.len() {
            if self.fronts[scheduler].is_up {
                self.attach(at, scheduler);
            }
        }
    }

    /// A worker and a scheduler find each other.
    pub(super) fn attach(&mut self, worker: usize, scheduler: usize) {
        let now = self.agenda.now();
        let station = &mut self.stations[worker];
        station.arbiter.join(now, SchedulerId(scheduler as u32));
        let models = (0..).zip(&self.curves).map(|(model, _)| ModelId(model)).collect();
        let input =
            Input::WorkerUp { worker: station.id, epoch: station.epoch, device: DeviceId(station.id.0), models };
        self.say(worker, scheduler, input);
    }

    /// A worker stops at once. What it had not yet done is not counted as done.
    pub(super) fn stop_worker(&mut self, at: usize) {
        let station = &mut self.stations[at];
        station.is_up = false;
        station.sent.clear();
        station.running.clear();
        self.outcome.busy = self.outcome.busy.saturating_sub(station.device.free.since(self.agenda.now()));
    }

    pub(super) fn say_to_all(&mut self, worker: usize, input: &Input) {
        (0..self.fronts.len()).for_each(|scheduler| self.say(worker, scheduler, input.clone()));
    }

    /// A worker says something to a scheduler.
    fn say(&mut self, worker: usize, scheduler: usize, input: Input) {
        let (link, life) = (self.stations[worker].device.spec.link, self.fronts[scheduler].life);
        self.agenda.after(link, Happening::ToScheduler { scheduler, life, input });
    }

    /// A worker hears something from a scheduler.
    pub(super) fn hear(&mut self, worker: usize, scheduler: usize, life: u64, said: ToWorker) {
        let (now, id) = (self.agenda.now(), SchedulerId(scheduler as u32));
        let station = &mut self.stations[worker];
        match said {
            ToWorker::Bid(model, want) => station.arbiter.bid(now, id, model, want),
            ToWorker::Pass(slot) => station.arbiter.pass(now, id, slot),
            ToWorker::Dispatch(dispatch) => {
                let (size, slot) = (size_of(&dispatch, &self.outcome.requests), dispatch.slot);
                station.sent.insert((id, slot), Sent { life, at: now, dispatch });
                let is_taken = station.arbiter.part(now, id, slot, size);
                assert!(is_taken, "a batch comes in a turn that was given");
            }
        }
    }

    /// Carries out what a worker's arbiter wants.
    pub(super) fn act(&mut self, worker: usize) {
        while let Some(action) = self.stations[worker].arbiter.poll_action() {
            match action {
                Action::Give { scheduler, slot, model, kind, own, others } => {
                    self.talk.turns += 1;
                    let station = &self.stations[worker];
                    let (id, epoch, budget) = (station.id, station.epoch, station.device.spec.budget);
                    let turn = Turn { worker: id, epoch, slot, model, budget, kind, own, others };
                    self.say(worker, scheduler.0 as usize, Input::WorkerTurn(turn));
                }
                Action::Launch(launch) => self.launch(worker, launch),
            }
        }
        if let Some(at) = self.stations[worker].arbiter.poll_timeout() {
            self.agenda.at(at, Happening::Tick { worker });
        }
    }

    /// A worker runs what came in a turn as one batch.
    fn launch(&mut self, worker: usize, launch: Launch) {
        let now = self.agenda.now();
        let station = &mut self.stations[worker];
        let parts = station.arbiter.parts(launch.number).to_vec();
        let (mut load, mut whole, mut running) = (Load::default(), Size::default(), Vec::new());
        for part in &parts {
            let Some(sent) = station.sent.remove(&(part.scheduler, launch.slot)) else { continue };
            for record in sent.dispatch.requests.iter().map(|id| &self.outcome.requests[id.0 as usize]) {
                load.add(record.cost, record.is_poison);
            }
            self.outcome.rows += sent.dispatch.requests.len() as u64;
            whole.add(part.size);
            running.push((part.scheduler.0 as usize, sent));
        }
        let begins = now.max(station.device.free);
        let curve = self.curves[launch.model.0 as usize];
        let (compute, ending) = station.device.run(now, curve, load, self.memory_max);
        self.outcome.batches += 1;
        self.talk.parts += running.len() as u64;
        self.outcome.busy += compute;
        let (id, epoch, link, ends) = (station.id, station.epoch, station.device.spec.link, station.device.free);
        for (part, (scheduler, Sent { life, at, dispatch })) in parts.iter().zip(&running) {
            let mut others = whole;
            others.remove(part.size);
            let (batch, attempt): (BatchId, Attempt) = (dispatch.batch, dispatch.attempt);
            let waited = begins.since(*at);
            let input = Input::BatchBegun { worker: id, epoch, batch, attempt, others, waited };
            self.agenda.at(begins + link, Happening::ToScheduler { scheduler: *scheduler, life: *life, input });
        }
        station.running.insert(launch.number, running);
        self.agenda.at(ends, Happening::Ended { worker, epoch, launch: launch.number, ending, compute });
    }

    /// A worker tells everybody how the batch ended.
    pub(super) fn report(&mut self, at: usize, launch: u64, ending: Ending) {
        let (worker, epoch) = (self.stations[at].id, self.stations[at].epoch);
        for (scheduler, Sent { life, dispatch, .. }) in self.stations[at].running.remove(&launch).unwrap_or_default() {
            if self.fronts[scheduler].life != life {
                continue;
            }
            let (batch, attempt) = (dispatch.batch, dispatch.attempt);
            match ending {
                Ending::Well(compute) => {
                    for request in dispatch.requests.iter().copied() {
                        let outcome = ItemOutcome::Ok;
                        self.say(at, scheduler, Input::ItemDone { worker, epoch, batch, attempt, request, outcome });
                    }
                    self.say(at, scheduler, Input::BatchEnd { worker, epoch, batch, attempt, compute });
                }
                Ending::Badly(reason) => {
                    self.say(at, scheduler, Input::BatchFailed { worker, epoch, batch, attempt, reason });
                }
            }
        }
    }
}

fn size_of(dispatch: &Dispatch, records: &[Record]) -> Size {
    let mut size = Size::default();
    dispatch.requests.iter().for_each(|id| size.add(records[id.0 as usize].cost.into()));
    size
}
