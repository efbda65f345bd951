//! One device between several servers: whose turn it is, what came in it, and what runs as one batch.
//!
//! The deciding is the scheduler's [`Arbiter`]; here are the batches that it knows by their size only. Like the rest of the
//! session it does no I/O: whoever calls it carries out its [`Step`]s and says what time it is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_scheduler::{Action, Arbiter, ModelId, SchedulerId, Sharing, Size, Slot, Timestamp, TurnKind, Want};

use super::pace::Pace;
use super::parts::{self, Piece};
use super::{NoCredit, Totals};
use crate::Budget;
use crate::batch::{BatchKey, Finished, HostBatch, ServerId};

#[cfg(test)]
mod tests;

/// Servers whose parts may run as one batch. What a part costs besides its rows is a copy of them.
const PARTS_MAX: u32 = 64;
/// What times from before this worker started are counted from.
const BEFORE: Duration = Duration::from_secs(3600);

/// What servers want of a device, and what it has of theirs.
#[derive(Debug)]
pub(crate) struct Desk {
    arbiter: Arbiter,
    origin: Instant,
    budget: Budget,
    /// Names of models, by number.
    models: Vec<Arc<str>>,
    /// When turns were given that no launch came of yet.
    given: BTreeMap<Slot, Instant>,
    /// Batches that came in a turn and did not begin.
    waiting: BTreeMap<(ServerId, Slot), HostBatch>,
    /// Batches to be handed to the executor.
    ready: VecDeque<HostBatch>,
    /// Batches handed to the executor and not ended, in the order in which it runs them.
    running: VecDeque<Running>,
    /// By launch, how many of its batches did not end, and the device time of those that did.
    launches: BTreeMap<u64, (usize, Duration)>,
    runs: u64,
    pace: Pace,
    /// Batches taken in at once, at present.
    slots: u32,
    totals: Totals,
}

/// A batch of parts that is with the executor.
#[derive(Debug)]
struct Running {
    number: u64,
    launch: u64,
    pieces: Vec<Piece>,
    launched: Instant,
    /// When the device came to it, and its servers were told.
    began: Option<Instant>,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Step {
    /// Give a server this turn.
    Give(ServerId, Arc<str>, Turn),
    /// Have the executor run this batch, whose end is to be told to [`Desk::finished`].
    Run(HostBatch),
}

/// A turn, as its server is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) slot: u32,
    pub(crate) kind: TurnKind,
    pub(crate) own: Size,
    pub(crate) others: Size,
}

/// A part whose batch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) key: BatchKey,
    pub(crate) others: Size,
    pub(crate) waited: Duration,
}

impl Desk {
    /// Of a device that takes so much in one batch, where a turn waits for answers for so long.
    pub(crate) fn new(origin: Instant, budget: Budget, patience: Duration) -> Self {
        Self {
            arbiter: Arbiter::new(Sharing { slots: 1, patience, parts_max: PARTS_MAX }),
            origin,
            budget,
            models: Vec::new(),
            given: BTreeMap::new(),
            waiting: BTreeMap::new(),
            ready: VecDeque::new(),
            running: VecDeque::new(),
            launches: BTreeMap::new(),
            runs: 0,
            pace: Pace::default(),
            slots: 1,
            totals: Totals::default(),
        }
    }

    /// A moment as the arbiter counts it.
    pub(crate) fn stamp(&self, at: Instant) -> Timestamp {
        Timestamp::ZERO + BEFORE + at.saturating_duration_since(self.origin)
    }

    /// A server attaches.
    pub(crate) fn join(&mut self, now: Instant, server: ServerId) {
        self.arbiter.join(self.stamp(now), scheduler(server));
    }

    /// A server is gone, and what it sent and did not begin with it. Says which batches these are.
    pub(crate) fn leave(&mut self, now: Instant, server: ServerId) -> Vec<BatchKey> {
        let mut dropped = Vec::new();
        self.waiting.retain(|(sender, _), batch| {
            if *sender == server {
                dropped.push(batch.key);
            }
            *sender != server
        });
        self.arbiter.leave(self.stamp(now), scheduler(server));
        dropped
    }

    /// What waits with a server, of one model.
    pub(crate) fn bid(&mut self, now: Instant, server: ServerId, model: &Arc<str>, want: Option<Want>) {
        let model = self.number(model);
        self.arbiter.bid(self.stamp(now), scheduler(server), model, want);
    }

    /// A server is to be given no more turns.
    pub(crate) fn withdraw(&mut self, now: Instant, server: ServerId) {
        let now = self.stamp(now);
        for model in 0..self.models.len() {
            self.arbiter.bid(now, scheduler(server), ModelId(model as u32), None);
        }
    }

    /// A server answers a turn with nothing.
    pub(crate) fn pass(&mut self, now: Instant, server: ServerId, slot: u32) {
        self.arbiter.pass(self.stamp(now), scheduler(server), Slot(slot));
    }

    /// A server answers a turn with a batch.
    pub(crate) fn part(&mut self, now: Instant, slot: u32, batch: HostBatch) -> Result<(), NoCredit> {
        let BatchKey { server, batch: number, .. } = batch.key;
        let size = parts::size_of(&batch);
        self.waiting.insert((server, Slot(slot)), batch);
        if self.arbiter.part(self.stamp(now), scheduler(server), Slot(slot), size) {
            return Ok(());
        }
        self.waiting.remove(&(server, Slot(slot)));
        Err(NoCredit { batch: number, slot })
    }

    /// Time passed.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.set_slots(now);
        self.arbiter.tick(self.stamp(now));
    }

    /// When to come back with [`tick`](Self::tick) if nothing happens before.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        let expires = self.arbiter.poll_timeout().map(|at| self.origin + at.since(Timestamp::ZERO + BEFORE));
        let second = self.second_from().filter(|_| self.slots < 2);
        expires.into_iter().chain(second).min()
    }

    /// What to do next. To be asked until it says `None` after everything it is told.
    pub(crate) fn step(&mut self, now: Instant) -> Option<Step> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Some(Step::Run(batch));
            }
            match self.arbiter.poll_action()? {
                Action::Give { scheduler: SchedulerId(server), slot, model, kind, own, others } => {
                    let Some(name) = self.models.get(model.0 as usize) else { continue };
                    // Turns that nothing came of are as old as the last ones.
                    while self.given.len() >= 2 * PARTS_MAX as usize {
                        self.given.pop_first();
                    }
                    self.given.entry(slot).or_insert(now);
                    return Some(Step::Give(ServerId(server), name.clone(), Turn { slot: slot.0, kind, own, others }));
                }
                Action::Launch(launch) => self.launch(now, launch.slot, launch.number),
            }
        }
    }

    /// The executor would not take a batch, or is done with one. Returns what became of each part.
    pub(crate) fn finished(&mut self, now: Instant, finished: Finished) -> Vec<Finished> {
        self.totals.cancelled += finished.cancelled;
        if finished.outcome.is_ok() {
            self.totals.batches += 1;
            self.totals.rows += finished.rows;
            self.totals.tokens += finished.tokens;
        }
        self.totals.busy += finished.compute;
        let Some(at) = self.running.iter().position(|running| running.number == finished.key.batch) else {
            self.totals.dropped += 1;
            return Vec::new();
        };
        let Some(Running { launch, pieces, launched, .. }) = self.running.remove(at) else { return Vec::new() };
        let compute = finished.compute;
        if compute > Duration::ZERO {
            self.pace.computed(compute);
        }
        let parts = parts::split(finished, launched, &pieces);
        if let Some((left, spent)) = self.launches.get_mut(&launch) {
            *left -= 1;
            *spent += compute;
            if *left == 0 {
                let spent = *spent;
                self.launches.remove(&launch);
                self.set_slots(now);
                self.arbiter.ended(self.stamp(now), launch, spent);
            }
        }
        parts
    }

    /// Parts that the device has come to since this was asked last.
    pub(crate) fn begun(&mut self, now: Instant) -> Vec<Begun> {
        let Some(running) = self.running.front_mut().filter(|running| running.began.is_none()) else {
            return Vec::new();
        };
        running.began = Some(now);
        let mut whole = Size::default();
        running.pieces.iter().for_each(|piece| whole.add(piece.size));
        let begun = |piece: &Piece| {
            let mut others = whole;
            others.remove(piece.size);
            Begun { key: piece.key, others, waited: parts::waited(piece, now) }
        };
        running.pieces.iter().map(begun).collect()
    }

    /// A heartbeat came back.
    pub(crate) fn round_trip(&mut self, took: Duration) {
        self.pace.round_trip(took);
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// What came in a turn is to run, as one batch if the device can take it so.
    fn launch(&mut self, now: Instant, slot: Slot, launch: u64) {
        if let Some(given) = self.given.remove(&slot) {
            self.pace.spent(now.saturating_duration_since(given));
        }
        let senders = self.arbiter.parts(launch).iter().map(|part| ServerId(part.scheduler.0));
        let came: Vec<HostBatch> = senders.filter_map(|server| self.waiting.remove(&(server, slot))).collect();
        let groups = parts::grouped(came, self.budget);
        self.launches.insert(launch, (groups.len(), Duration::ZERO));
        for group in groups {
            self.runs += 1;
            let key = BatchKey { server: ServerId::NONE, epoch: launch, batch: self.runs, attempt: 1 };
            if let Some((batch, pieces)) = parts::joined(key, now, group) {
                self.running.push_back(Running { number: self.runs, launch, pieces, launched: now, began: None });
                self.ready.push_back(batch);
            }
        }
        if self.launches.get(&launch).is_some_and(|(left, _)| *left == 0) {
            // Whoever sent it left in the same moment.
            self.launches.remove(&launch);
            self.arbiter.ended(self.stamp(now), launch, Duration::ZERO);
        }
    }

    /// A second batch is asked for while one runs where that hides the way to the servers and back, but only near the end of
    /// the first: what came until then goes in one.
    fn second_from(&self) -> Option<Instant> {
        let began = self.running.front()?.began?;
        self.pace.wants_two().then(|| began + self.pace.asks_after())
    }

    fn set_slots(&mut self, now: Instant) {
        self.slots = if self.second_from().is_some_and(|from| from <= now) { 2 } else { 1 };
        self.arbiter.set_slots(self.stamp(now), self.slots);
    }

    fn number(&mut self, model: &Arc<str>) -> ModelId {
        let known = self.models.iter().position(|known| known == model);
        let at = known.unwrap_or_else(|| {
            self.models.push(model.clone());
            self.models.len() - 1
        });
        ModelId(at as u32)
    }
}

fn scheduler(server: ServerId) -> SchedulerId {
    SchedulerId(server.0)
}
