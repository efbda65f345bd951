//! What it takes to bring a model's weights onto a device, and on which devices they are not.

use alloc::collections::BTreeSet;
use core::time::Duration;

use crate::WorkerId;

/// What one observation is worth: an average over about the last four.
const GAIN: u32 = 4;

/// Weights that come and go: workers keep those of all their models on the host, and on the device what there is room for.
///
/// It is kept apart from the curve. How long weights are on their way has nothing to do with what is in a batch, and a
/// curve that was fitted to both would be right about neither.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paging {
    /// How long it takes; zero until it was seen.
    time: Duration,
    /// Workers that hold the model, and not on their device. Bounded by the caller, who says which are gone.
    absent: BTreeSet<WorkerId>,
}

impl Paging {
    /// Learns that a batch waited so long for the weights.
    pub(super) fn learn(&mut self, taken: Duration) {
        self.time = if self.time.is_zero() { taken } else { self.time - self.time / GAIN + taken / GAIN };
    }

    /// Notes whether the weights are on a worker's device. Says whether that is news.
    pub(super) fn note(&mut self, worker: WorkerId, is_there: bool) -> bool {
        if is_there { self.absent.remove(&worker) } else { self.absent.insert(worker) }
    }

    /// How much longer a batch takes on this worker for it.
    pub(super) fn delay(&self, worker: WorkerId) -> Duration {
        if self.absent.contains(&worker) { self.time } else { Duration::ZERO }
    }
}
