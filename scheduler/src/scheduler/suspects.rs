//! Workers that are not trusted: one of which a batch takes longer than nearly all do.
//!
//! A suspect gets nothing new while another worker that holds the model can be on time, and nobody counts on when it will
//! be free. When what it had in hand ends it is tried with one batch, and then four times a second, until one takes no
//! more than [`FAR`] times what is usual, or no more than was expected of this worker. So one that hung is back at once,
//! one that has become slow for good is back when it is known how slow, and none is parked for ever.

use core::time::Duration;

use super::Scheduler;
use crate::fleet::{Link, Suspect};
use crate::inflight::Batch;
use crate::{ModelId, Timestamp, WorkerId};

/// How many times what is usual a batch of a worker that is well takes at most.
const FAR: u32 = 3;
/// Between two batches that a suspect is tried with.
const PROBE_EVERY: Duration = Duration::from_millis(250);

impl Scheduler {
    /// Notes batches that have become slow, and suspects their workers. What stands behind a slow batch is as slow.
    pub(super) fn suspect_slow(&mut self) {
        while let Some(id) = self.inflight.take_slow(self.now) {
            let Some(worker) = self.inflight.get(id).map(|batch| batch.worker) else { continue };
            let Some(link) = self.fleet.link(worker) else { continue };
            link.outstanding.iter().for_each(|batch| self.hedges.want(*batch));
            if link.suspect.is_none() {
                self.fleet.suspect(worker, Some(Suspect { probe_at: self.now, failed: 0 }));
            }
            self.stir_waiting();
            self.stir_for_suspects();
        }
    }

    /// What may go to suspects has changed: everything that waits is looked at again.
    pub(super) fn stir_for_suspects(&mut self) {
        if self.fleet.suspects() > 0 {
            self.stirred.extend(self.models.iter().filter(|(_, model)| !model.queue.is_empty()).map(|(id, _)| *id));
        }
    }

    /// A batch of a worker is over: whether it is to be trusted again.
    pub(super) fn reconsider(&mut self, worker: WorkerId, batch: &Batch) {
        self.stir_for_suspects();
        let suspect = self.fleet.link(worker).and_then(|link| link.suspect);
        let (Some(suspect), Some(taken)) = (suspect, batch.computed(self.now)) else { return };
        let Some(model) = self.models.get(&batch.model) else { return };
        let (usual, own) = (model.costs.typical(batch.size()), model.costs.high(worker, batch.size()));
        if taken <= own.max(usual * FAR) || !model.costs.is_known() {
            self.fleet.suspect(worker, None);
            return;
        }
        let wait = if suspect.failed == 0 { Duration::ZERO } else { PROBE_EVERY };
        let suspect = Suspect { probe_at: self.now + wait, failed: suspect.failed.saturating_add(1) };
        self.fleet.suspect(worker, Some(suspect));
    }

    /// Until when a model's requests should rather wait for another worker than go to this one.
    pub(super) fn hold_until(&self, id: ModelId, worker: WorkerId) -> Option<Timestamp> {
        let link = self.fleet.link(worker)?;
        let suspect = link.suspect?;
        let is_idle = link.outstanding.is_empty();
        if is_idle && suspect.probe_at <= self.now {
            return None;
        }
        let model = self.models.get(&id)?;
        let first = model.queue.first_on_time()?;
        let latest = |(other, link): (WorkerId, &Link)| {
            let latest = first.rank.due - model.costs.high(other, first.cost.into());
            let is_able = link.suspect.is_none() && link.free_at <= latest && self.now < latest;
            is_able.then_some(latest)
        };
        let until = self.fleet.holders(id).filter_map(latest).max()?;
        Some(if is_idle { until.min(suspect.probe_at) } else { until })
    }
}
