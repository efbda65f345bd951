//! What each model's queue waits for: the hooks of its [`WaitClock`](crate::waits::WaitClock).

use super::Scheduler;
use crate::{ModelId, Timestamp, WaitCause, Waits, WorkerId};

impl Scheduler {
    /// How long a model's queue would have kept somebody waiting up to `now`, by what for, since the model came. What a
    /// request waited for is what it shows when that leaves the queue, less what it showed when that came.
    ///
    /// `now` is not before the last one told: what is asked is what will be so if nothing happens until then.
    pub fn waits(&self, model: ModelId, now: Timestamp) -> Option<Waits> {
        Some(self.models.get(&model)?.waits.read(now))
    }

    /// Workers have taken a model in or dropped it.
    pub(super) fn note_holders(&mut self, id: ModelId) {
        let cause = self.fleet.wait_cause(id);
        if let Some(model) = self.models.get_mut(&id) {
            model.waits.set_workers(self.now, cause);
        }
    }

    /// The policy of a model waits although this worker is free: notes what for.
    pub(super) fn note_policy_waits(&mut self, id: ModelId, worker: WorkerId) {
        let is_held = self.hold_until(id, worker).is_some();
        let now = self.now;
        let Some(model) = self.models.get_mut(&id) else { return };
        let cause = match is_held {
            true => WaitCause::SuspectWorker,
            // Others can be on time, and are busy.
            false if model.is_late_on(worker, now) => WaitCause::WorkersBusy,
            false => WaitCause::FullerBatch,
        };
        model.waits.set_policy(now, Some(cause));
    }
}
