//! What a worker knows of its dealings with a server, as plain state: which credits are out, which batches are in
//! flight and under which life of the connection, what is cancelled, which models are in which state. It does no I/O
//! and reads no clock; whoever calls it says what time it is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::{BatchKey, CancelFlags, Finished};

mod desk;
mod models;
mod pace;
mod parts;
#[cfg(test)]
mod tests;

pub(crate) use desk::{Begun, Desk, Step, Turn};
pub(crate) use models::{LoadStep, ModelStatus, Models, UnloadStep};
use pace::Pace;

/// Credits out at most.
const SLOTS: usize = 2;
/// Cancels kept for batches that did not come yet.
const EARLY_MAX: usize = 64;
/// Batch keys remembered, so that one sent twice is run once.
const SEEN_MAX: usize = 1024;

/// One worker's dealings with one server, across reconnects.
#[derive(Debug)]
pub(crate) struct Session {
    /// The life of the connection; none while there is none.
    epoch: Option<u64>,
    /// It shares its workers: turns instead of credits.
    is_shared: bool,
    slots: [Slot; SLOTS],
    /// Turns it was given and did not answer, and of which models they are.
    turns: BTreeMap<u32, Arc<str>>,
    /// Batches handed to the executor, of this epoch and of earlier ones.
    flight: BTreeMap<BatchKey, Flight>,
    /// The last keys that came, oldest first.
    seen: VecDeque<BatchKey>,
    /// The batch whose payload is coming.
    arriving: Option<BatchKey>,
    /// Cancels that overtook their batch, oldest first.
    early: VecDeque<(u64, Vec<u32>)>,
    pace: Pace,
    draining: bool,
    totals: Totals,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    /// The server may spend it.
    Granted {
        at: Instant,
    },
    /// Taken back. A batch that the server sent before it heard so is still taken.
    Withdrawn,
    /// A batch that came with it is arriving or running.
    Spent,
}

#[derive(Debug)]
struct Flight {
    /// None where it came in a turn.
    slot: Option<usize>,
    cancelled: Arc<CancelFlags>,
}

/// Counted since the worker started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) batches: u64,
    pub(crate) rows: u64,
    pub(crate) tokens: u64,
    pub(crate) busy: Duration,
    /// Runs and replies dropped for a stale epoch or a key seen before.
    pub(crate) dropped: u64,
    /// Items cancelled before they ran.
    pub(crate) cancelled: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.batches += other.batches;
        self.rows += other.rows;
        self.tokens += other.tokens;
        self.busy += other.busy;
        self.dropped += other.dropped;
        self.cancelled += other.cancelled;
    }
}

/// What to do with a batch whose first bytes came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Run it.
    Run,
    /// Take its bytes and forget it: it is of another epoch, or came before.
    Drop,
}

/// The server sent a batch without the credit for it.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("batch {batch} came on slot {slot}, for which no credit is out and no turn was given")]
pub(crate) struct NoCredit {
    batch: u64,
    slot: u32,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            epoch: None,
            is_shared: false,
            slots: [Slot::Free; SLOTS],
            turns: BTreeMap::new(),
            flight: BTreeMap::new(),
            seen: VecDeque::with_capacity(SEEN_MAX),
            arriving: None,
            early: VecDeque::new(),
            pace: Pace::default(),
            draining: false,
            totals: Totals::default(),
        }
    }

    /// A new life of the connection. Credits and turns of the old one are void.
    pub(crate) fn connect(&mut self, epoch: u64, is_shared: bool) {
        self.epoch = Some(epoch);
        self.is_shared = is_shared;
        // A server that was started anew counts its connections and batches from the first again.
        self.seen.clear();
    }

    /// Whether the server shares its workers.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// The server is given a turn.
    pub(crate) fn give(&mut self, slot: u32, model: Arc<str>) {
        self.turns.insert(slot, model);
    }

    /// The server answers a turn with nothing.
    pub(crate) fn pass(&mut self, slot: u32) {
        self.turns.remove(&slot);
    }

    /// The connection is gone, and with it everyone who wanted the batches in flight: those items not yet running are
    /// cancelled, and what the rest gives will be dropped.
    pub(crate) fn disconnect(&mut self) {
        self.epoch = None;
        self.arriving = None;
        self.early.clear();
        self.turns.clear();
        self.draining = false;
        self.slots = [Slot::Free; SLOTS];
        for flight in self.flight.values() {
            flight.cancelled.set_all();
            if let Some(slot) = flight.slot {
                self.slots[slot] = Slot::Spent;
            }
        }
    }

    /// The first bytes of a batch came, on a credit or in answer to a turn.
    pub(crate) fn begin(&mut self, now: Instant, key: BatchKey, slot: u32, model: &str) -> Result<Admission, NoCredit> {
        if Some(key.epoch) != self.epoch {
            self.totals.dropped += 1;
            return Ok(Admission::Drop);
        }
        if self.seen.contains(&key) {
            self.totals.dropped += 1;
            return Ok(Admission::Drop);
        }
        if self.is_shared {
            if self.turns.get(&slot).is_none_or(|given| **given != *model) {
                return Err(NoCredit { batch: key.batch, slot });
            }
            self.turns.remove(&slot);
            self.see(key);
            return Ok(Admission::Run);
        }
        let state = self.slots.get_mut(slot as usize);
        let Some(state @ (Slot::Granted { .. } | Slot::Withdrawn)) = state else {
            return Err(NoCredit { batch: key.batch, slot });
        };
        if let Slot::Granted { at } = *state {
            self.pace.spent(now.saturating_duration_since(at));
        }
        *state = Slot::Spent;
        self.see(key);
        Ok(Admission::Run)
    }

    fn see(&mut self, key: BatchKey) {
        if self.seen.len() == SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(key);
        self.arriving = Some(key);
    }

    /// The server held the credit of this slot for so long before it spent it. Told before the batch that spends it begins.
    pub(crate) fn held(&mut self, slot: u32, held: Duration) {
        if let Some(Slot::Granted { at }) = self.slots.get_mut(slot as usize) {
            // One that claims more than there was would only say that the link takes no time.
            *at = at.checked_add(held).unwrap_or(*at);
        }
    }

    /// Its last bytes came, and it goes to the executor. Returns the flags by which its items are cancelled.
    pub(crate) fn launch(&mut self, key: BatchKey, slot: u32, items: usize, transfer: Duration) -> Arc<CancelFlags> {
        self.arriving = None;
        self.pace.transferred(transfer);
        let cancelled = Arc::new(CancelFlags::new(items));
        for item in self.early.iter().filter(|(batch, _)| *batch == key.batch).flat_map(|(_, items)| items) {
            cancelled.set(*item as usize);
        }
        self.early.retain(|(batch, _)| *batch != key.batch);
        let slot = (!self.is_shared).then_some(slot as usize);
        self.flight.insert(key, Flight { slot, cancelled: cancelled.clone() });
        cancelled
    }

    /// It will not run after all; its slot is free again.
    pub(crate) fn refuse(&mut self, slot: u32) {
        self.arriving = None;
        if self.is_shared {
            return;
        }
        if let Some(state) = self.slots.get_mut(slot as usize) {
            *state = Slot::Free;
        }
    }

    /// The executor would not take it.
    pub(crate) fn abandon(&mut self, key: &BatchKey) {
        self.flight.remove(key);
    }

    /// The executor is done with a batch. False if nobody waits for it any more.
    pub(crate) fn finish(&mut self, finished: &Finished) -> bool {
        self.totals.cancelled += finished.cancelled;
        if finished.outcome.is_ok() {
            self.totals.batches += 1;
            self.totals.rows += finished.rows;
            self.totals.tokens += finished.tokens;
        }
        self.totals.busy += finished.compute;
        if finished.compute > Duration::ZERO {
            self.pace.computed(finished.compute);
        }
        self.end(&finished.key)
    }

    /// A batch is over, as one of its own or as a part of another. False if nobody waits for it any more.
    pub(crate) fn end(&mut self, key: &BatchKey) -> bool {
        let Some(flight) = self.flight.remove(key) else {
            self.totals.dropped += 1;
            return false;
        };
        if let Some(slot) = flight.slot {
            self.slots[slot] = Slot::Free;
        }
        let current = Some(key.epoch) == self.epoch;
        if !current {
            self.totals.dropped += 1;
        }
        current
    }

    /// Items of a batch are no longer wanted. Those of a batch that is over are forgotten; those of one that did not
    /// come yet, for the cancel may overtake it, are kept until it does.
    pub(crate) fn cancel(&mut self, batch: u64, items: Vec<u32>) {
        let is_meant = |key: &BatchKey| key.batch == batch && Some(key.epoch) == self.epoch;
        let flights: Vec<&Flight> =
            self.flight.iter().filter(|(key, _)| is_meant(key)).map(|(_, flight)| flight).collect();
        for flight in &flights {
            for &item in &items {
                flight.cancelled.set(item as usize);
            }
        }
        let is_over = self.seen.iter().any(is_meant) && !self.arriving.as_ref().is_some_and(is_meant);
        if flights.is_empty() && !is_over {
            if self.early.len() == EARLY_MAX {
                self.early.pop_front();
            }
            self.early.push_back((batch, items));
        }
    }

    /// Slots to grant a credit for now. One is out at a time, two while that hides the link's latency: batches then wait
    /// here for less than it would take to fetch them, and otherwise stay where the server can still change them.
    pub(crate) fn grants(&mut self, now: Instant) -> Vec<u32> {
        if self.epoch.is_none() || self.draining || self.is_shared {
            return Vec::new();
        }
        let wanted = if self.pace.wants_two() { 2 } else { 1 };
        let mut out = self.slots.iter().filter(|slot| **slot != Slot::Free).count();
        let mut granted = Vec::new();
        for (index, slot) in (0u32..).zip(&mut self.slots) {
            if out >= wanted {
                break;
            }
            if *slot == Slot::Free {
                *slot = Slot::Granted { at: now };
                granted.push(index);
                out += 1;
            }
        }
        granted
    }

    /// A heartbeat came back.
    pub(crate) fn round_trip(&mut self, took: Duration) {
        self.pace.round_trip(took);
    }

    /// No more credits. Returns the slots whose credits are out and are to be taken back.
    pub(crate) fn drain(&mut self) -> Vec<u32> {
        self.draining = true;
        let mut withdrawn = Vec::new();
        for (index, slot) in (0u32..).zip(&mut self.slots) {
            if matches!(slot, Slot::Granted { .. }) {
                *slot = Slot::Withdrawn;
                withdrawn.push(index);
            }
        }
        withdrawn
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether nothing arrives or runs, nor may still come in a turn.
    pub(crate) fn is_idle(&self) -> bool {
        self.flight.is_empty() && self.arriving.is_none() && self.turns.is_empty() && !self.slots.contains(&Slot::Spent)
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }
}
