//! Which models are in memory: those that are loaded when they are called, and make room again.

use std::sync::Arc;
use std::time::Duration;

use shoal_scheduler::{ModelId, Timestamp, WorkerId};
use tokio::time::Instant;
use tracing::info;

use super::models::{Load, Model, ModelReport};
use super::{Driver, ModelSettings};

impl ModelSettings {
    /// How long it stays without a call; none where it stays for good.
    fn unload_after(&self) -> Option<Duration> {
        match self.load {
            Load::AtStart => None,
            Load::OnDemand { unload_after } => Some(unload_after),
        }
    }
}

impl Model {
    /// When nobody will have called it for long enough, if it is to go then.
    fn idle_at(&self) -> Option<Timestamp> {
        let unload_after = self.settings.unload_after().filter(|_| self.may_go())?;
        let unused = self.last_call.unwrap_or(Timestamp::ZERO) + unload_after;
        // One that cannot be loaded may be tried again by a call, some time after.
        Some(self.try_again_at().map_or(unused, |again| again.min(unused)))
    }

    /// Whether it is there because it was called, and no call needs it now.
    fn may_go(&self) -> bool {
        self.wanted && self.is_on_demand() && self.open_calls == 0 && self.awaited() == 0
    }

    /// Memory that it takes on each worker, as the last that loaded it measured.
    fn bytes(&self) -> u64 {
        self.card.as_ref().map_or(0, |card| card.bytes)
    }

    /// Whether it takes memory of a worker, or is about to.
    fn is_held_by(&self, worker: WorkerId) -> bool {
        matches!(self.workers.get(&worker), Some(ModelReport::Ready(_) | ModelReport::Loading))
    }
}

impl Driver {
    /// A call came: the model is needed.
    pub(super) fn called(&mut self, now: Instant, id: ModelId) {
        let stamp = self.stamp(now);
        let Some(model) = self.models.get_mut(id) else { return };
        model.last_call = Some(stamp);
        if !model.wanted && model.is_on_demand() {
            let name = model.settings.name.clone();
            info!(model = %name, "called, so it is loaded");
            self.make_room(now, id);
            self.want(now, &name, true);
        }
    }

    /// A call waits for a model of which nothing is known yet.
    pub(super) fn awaited(&mut self, now: Instant, name: &Arc<str>) {
        if let Some(id) = self.models.id(name) {
            self.called(now, id);
        }
    }

    /// Unloads the models that nobody called for long enough.
    pub(super) fn unload_idle(&mut self, now: Instant) {
        let stamp = self.stamp(now);
        let is_idle = |(_, model): &(ModelId, &Model)| model.idle_at().is_some_and(|at| at <= stamp);
        let idle = self.models.iter().filter(is_idle);
        let idle: Vec<_> = idle.map(|(_, model)| (model.settings.name.clone(), model.has_failed())).collect();
        for (name, failed) in idle {
            let why =
                if failed { "it can be tried again, by the next call" } else { "nobody called it for long enough" };
            info!(model = %name, why, "unloaded");
            self.want(now, &name, false);
        }
    }

    /// When [`Self::unload_idle`] next has something to do.
    pub(super) fn next_idle(&self) -> Option<Timestamp> {
        self.models.iter().filter_map(|(_, model)| model.idle_at()).min()
    }

    /// Unloads what was called longest ago of what may go, until every worker has room for a model beside the rest.
    pub(super) fn make_room(&mut self, now: Instant, id: ModelId) {
        let Some(max) = self.around.resident_bytes_max else { return };
        let wanted = self.models.get(id).map(|model| (model.bytes(), model.settings.name.clone()));
        let Some((wanted, name)) = wanted else { return };
        loop {
            let loads = self.fleet.iter().filter(|worker| worker.can_load(&name)).map(|worker| worker.id);
            let full = { loads }.find(|worker| {
                let others = self.models.iter().filter(|(other, _)| *other != id);
                let held = others.filter(|(_, model)| model.wanted && model.is_held_by(*worker));
                held.map(|(_, model)| model.bytes()).sum::<u64>() + wanted > max.get()
            });
            let Some(full) = full else { return };
            let others = self.models.iter().filter(|(other, _)| *other != id);
            let may_go = others.filter(|(_, model)| model.may_go() && model.is_held_by(full));
            // With nothing that may go the worker says itself whether it has room.
            let Some((_, first)) = may_go.min_by_key(|(_, model)| model.last_call) else { return };
            let name = first.settings.name.clone();
            info!(model = %name, "unloaded to make room");
            self.want(now, &name, false);
        }
    }
}
