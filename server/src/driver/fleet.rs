//! The connected workers: how to reach each, and what became of those that left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shoal_scheduler::{Budget, DeviceId, DownCause, Epoch, Slot, Timestamp, WorkerId};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::event::{ToWorker, WorkerUp};

/// How long a local worker whose connection broke may take to show how its process ended. The difference between a
/// crash and a kill decides whether its batch is suspect.
const VERDICT_TIME_MAX: Duration = Duration::from_millis(500);

/// One connected worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) epoch: Epoch,
    pub(super) name: Arc<str>,
    pub(super) device: String,
    pub(super) device_class: Arc<str>,
    pub(super) local: bool,
    pub(super) pool: Arc<str>,
    /// Models it has sources for of its own.
    offers: BTreeSet<Arc<str>>,
    commands: mpsc::UnboundedSender<ToWorker>,
    /// Since when its credits are here, those that were spent included.
    credits: BTreeMap<Slot, (Timestamp, Budget)>,
    /// Its connection is over since; its process may still say why.
    broken: Option<Instant>,
}

/// Every connected worker, by epoch; names keep their id.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    live: BTreeMap<Epoch, Worker>,
    ids: BTreeMap<Arc<str>, WorkerId>,
    next: u32,
    devices: BTreeMap<OnDevice, DeviceId>,
}

/// What tells devices apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum OnDevice {
    /// By its UUID, whoever uses it.
    Gpu(Arc<str>),
    /// One that says nothing of itself counts as its worker's own.
    Of(WorkerId),
}

/// A worker that is no longer there.
#[derive(Debug)]
pub(super) struct Departed {
    pub(super) worker: Worker,
    pub(super) cause: DownCause,
}

impl Worker {
    /// Asks the worker for something. One whose connection just broke is told nothing: its `Gone` is on its way.
    pub(super) fn send(&self, command: ToWorker) {
        let _ = self.commands.send(command);
    }

    /// Whether it can be told to load this model.
    pub(super) fn can_load(&self, model: &str) -> bool {
        self.local || self.offers.contains(model)
    }

    /// A credit came.
    pub(super) fn grant(&mut self, slot: Slot, budget: Budget, now: Timestamp) {
        self.credits.insert(slot, (now, budget));
    }

    /// What a batch in that place may have.
    pub(super) fn budget(&self, slot: Slot) -> Option<Budget> {
        self.credits.get(&slot).map(|(_, budget)| *budget)
    }

    /// How long it was here, now that it is spent.
    pub(super) fn spend(&self, slot: Slot, now: Timestamp) -> Duration {
        self.credits.get(&slot).map_or(Duration::ZERO, |(granted, _)| now.since(*granted))
    }
}

impl Fleet {
    /// Takes in a worker, unless a later life of it is here already. Says who it is and what it computes on; its earlier
    /// life, if it is still listed, is returned as lost.
    pub(super) fn join(&mut self, up: WorkerUp) -> Option<(WorkerId, DeviceId, Option<Departed>)> {
        let id = *self.ids.entry(up.name.clone()).or_insert_with(|| {
            self.next += 1;
            WorkerId(self.next)
        });
        let old = self.live.values().find(|worker| worker.id == id).map(|worker| worker.epoch);
        if old.is_some_and(|epoch| epoch > up.epoch) {
            let _ = up.commands.send(ToWorker::Close);
            return None;
        }
        let departed = old.and_then(|epoch| self.remove(epoch, DownCause::Lost));
        let on = up.gpu.map_or(OnDevice::Of(id), OnDevice::Gpu);
        let next = u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
        let device = *self.devices.entry(on).or_insert(DeviceId(next));
        let worker = Worker {
            id,
            epoch: up.epoch,
            name: up.name,
            device: up.device,
            device_class: up.device_class,
            local: up.local,
            pool: up.pool,
            offers: up.offers.into_iter().collect(),
            commands: up.commands,
            credits: BTreeMap::new(),
            broken: None,
        };
        self.live.insert(up.epoch, worker);
        Some((id, device, departed))
    }

    /// A connection is over. A local worker is kept a moment longer, until its process shows how it ended.
    pub(super) fn disconnect(&mut self, epoch: Epoch, left: bool, now: Instant) -> Option<Departed> {
        let worker = self.live.get_mut(&epoch)?;
        if left {
            return self.remove(epoch, DownCause::Left);
        }
        if worker.local {
            worker.broken.get_or_insert(now);
            return None;
        }
        self.remove(epoch, DownCause::Lost)
    }

    /// A local worker's process ended.
    pub(super) fn process_ended(&mut self, name: &str, cause: DownCause) -> Option<Departed> {
        let epoch = self.live.values().find(|worker| &*worker.name == name)?.epoch;
        self.remove(epoch, cause)
    }

    /// Takes a worker off the list.
    pub(super) fn remove(&mut self, epoch: Epoch, cause: DownCause) -> Option<Departed> {
        let worker = self.live.remove(&epoch)?;
        worker.send(ToWorker::Close);
        Some(Departed { worker, cause })
    }

    /// Workers whose process gave no verdict in time: their link broke, that is all that is known.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Departed> {
        let is_overdue = |worker: &&Worker| worker.broken.is_some_and(|since| now >= since + VERDICT_TIME_MAX);
        let epoch = self.live.values().find(is_overdue)?.epoch;
        self.remove(epoch, DownCause::Lost)
    }

    /// When [`Self::overdue`] next has something to say.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        self.live.values().filter_map(|worker| worker.broken).min().map(|since| since + VERDICT_TIME_MAX)
    }

    pub(super) fn by_epoch(&self, epoch: Epoch) -> Option<&Worker> {
        self.live.get(&epoch)
    }

    /// What a connected worker runs on.
    pub(super) fn device_of(&self, id: WorkerId) -> Option<&Arc<str>> {
        self.live.values().find(|worker| worker.id == id).map(|worker| &worker.device_class)
    }

    pub(super) fn by_epoch_mut(&mut self, epoch: Epoch) -> Option<&mut Worker> {
        self.live.get_mut(&epoch)
    }

    pub(super) fn of_pool(&self, pool: &str) -> impl Iterator<Item = &Worker> {
        self.live.values().filter(move |worker| &*worker.pool == pool)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.live.values()
    }
}
