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
    /// How long it takes, once it was seen.
    time: Option<Time>,
    /// Workers that hold the model, and not on their device. Bounded by the caller, who says which are gone.
    absent: BTreeSet<WorkerId>,
}

/// How long weights take to come.
#[derive(Clone, Copy, Debug)]
enum Time {
    /// As the first batch saw it that waited for them.
    First(Duration),
    /// On average.
    Mean(Duration),
}

impl Paging {
    /// Learns that a batch waited so long for the weights. The first time may have been slow for reasons of its own, and a
    /// model that is thought too slow to be tried would never be seen to be faster: it counts no longer than until there is
    /// a smaller one.
    pub(super) fn learn(&mut self, taken: Duration) {
        self.time = Some(match self.time {
            None => Time::First(taken),
            Some(Time::First(first)) if taken < first => Time::Mean(taken),
            Some(Time::First(mean) | Time::Mean(mean)) => Time::Mean(mean - mean / GAIN + taken / GAIN),
        });
    }

    /// Notes whether the weights are on a worker's device. Says whether that is news.
    pub(super) fn note(&mut self, worker: WorkerId, is_there: bool) -> bool {
        if is_there { self.absent.remove(&worker) } else { self.absent.insert(worker) }
    }

    /// Whether it is known how much longer a batch takes on this worker.
    pub(super) fn is_known(&self, worker: WorkerId) -> bool {
        self.time.is_some() || !self.absent.contains(&worker)
    }

    /// How much longer a batch takes on this worker for it.
    pub(super) fn delay(&self, worker: WorkerId) -> Duration {
        match self.time {
            Some(Time::First(time) | Time::Mean(time)) if self.absent.contains(&worker) => time,
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: WorkerId = WorkerId(1);

    /// What is made of these times, in milliseconds.
    fn learned(times: &[u64]) -> Duration {
        let mut paging = Paging::default();
        paging.note(WORKER, false);
        times.iter().for_each(|time| paging.learn(Duration::from_millis(*time)));
        paging.delay(WORKER)
    }

    #[test]
    fn a_slow_first_time_is_forgotten_for_a_faster_one() {
        assert_eq!(learned(&[]), Duration::ZERO);
        assert_eq!(learned(&[4_000]), Duration::from_millis(4_000));
        assert_eq!(learned(&[4_000, 20]), Duration::from_millis(20));
        assert_eq!(learned(&[4_000, 20, 60]), Duration::from_millis(30));
        assert_eq!(learned(&[20, 60]), Duration::from_millis(30));
    }

    #[test]
    fn no_time_at_all_is_a_time_as_well() {
        assert_eq!(learned(&[0, 40]), Duration::from_millis(10));
    }
}
