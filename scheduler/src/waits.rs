//! What queues wait for, and for how long: one clock for each model, so that nothing has to be noted of each request.
//!
//! What a model's queue waits for changes when a worker takes the model in or drops it and when its policy begins or
//! ceases to wait, which is seldom beside requests. The clock adds up how long each of it lasted. What it shows when a
//! request leaves, less what it showed when that came, is what the request waited for: to the nanosecond, whatever
//! happened in between.

use core::ops::{Add, AddAssign};
use core::time::Duration;

use crate::Timestamp;

/// What a queue waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitCause {
    /// No worker is connected that can serve the model.
    #[default]
    NoWorker,
    /// Workers are loading the model.
    Loading,
    /// Every worker that holds the model and can be on time is busy.
    WorkersBusy,
    /// A worker is free but not trusted, and another one may come.
    SuspectWorker,
    /// The policy waits for a fuller batch.
    FullerBatch,
}

impl WaitCause {
    /// Every cause, in the order in which a request may meet them.
    pub const ALL: [Self; 5] =
        [Self::NoWorker, Self::Loading, Self::WorkersBusy, Self::SuspectWorker, Self::FullerBatch];
}

/// Time by what it was waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits([u64; WaitCause::ALL.len()]);

impl Waits {
    /// None at all.
    pub const NONE: Self = Self([0; WaitCause::ALL.len()]);

    /// The time that one cause took.
    pub fn of(&self, cause: WaitCause) -> Duration {
        Duration::from_nanos(self.0[cause as usize])
    }

    /// All of it.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.0.iter().sum())
    }

    /// What came to it since it was `earlier`.
    #[must_use]
    pub fn since(&self, earlier: Self) -> Self {
        let mut nanos = self.0;
        nanos.iter_mut().zip(earlier.0).for_each(|(nanos, before)| *nanos = nanos.saturating_sub(before));
        Self(nanos)
    }

    /// As much for each of so many.
    #[must_use]
    pub fn times(&self, count: u64) -> Self {
        Self(self.0.map(|nanos| nanos.saturating_mul(count)))
    }

    fn count(&mut self, cause: WaitCause, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0[cause as usize] = self.0[cause as usize].saturating_add(nanos);
    }
}

impl FromIterator<(WaitCause, Duration)> for Waits {
    fn from_iter<I: IntoIterator<Item = (WaitCause, Duration)>>(parts: I) -> Self {
        let mut waits = Self::NONE;
        parts.into_iter().for_each(|(cause, time)| waits.count(cause, time));
        waits
    }
}

impl Add for Waits {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for Waits {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(nanos, more)| *nanos = nanos.saturating_add(more));
    }
}

/// The clock of one model.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WaitClock {
    totals: Waits,
    /// Up to when they count.
    at: Timestamp,
    /// What keeps the queue waiting as far as it is up to workers.
    workers: WaitCause,
    /// What the policy waits for, if it does, while a worker is free.
    policy: Option<WaitCause>,
}

impl WaitClock {
    /// What is waited for by whoever waits.
    pub(crate) fn cause(&self) -> WaitCause {
        match self.workers {
            WaitCause::WorkersBusy => self.policy.unwrap_or(WaitCause::WorkersBusy),
            workers => workers,
        }
    }

    /// From now on workers keep the queue waiting for this.
    pub(crate) fn set_workers(&mut self, now: Timestamp, cause: WaitCause) {
        self.advance(now);
        self.workers = cause;
    }

    /// From now on the policy waits for this, or no longer.
    pub(crate) fn set_policy(&mut self, now: Timestamp, cause: Option<WaitCause>) {
        self.advance(now);
        self.policy = cause;
    }

    /// What was waited for up to `now`, if nothing changes until then.
    pub(crate) fn read(&self, now: Timestamp) -> Waits {
        let mut clock = *self;
        clock.advance(now);
        clock.totals
    }

    /// What it has been set to.
    pub(crate) fn settings(&self) -> (WaitCause, Option<WaitCause>) {
        (self.workers, self.policy)
    }

    fn advance(&mut self, now: Timestamp) {
        self.totals.count(self.cause(), now.since(self.at));
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn each_moment_counts_for_what_was_waited_for_then() {
        let mut clock = WaitClock::default();
        clock.set_workers(at(10), WaitCause::Loading);
        clock.set_workers(at(15), WaitCause::WorkersBusy);
        clock.set_policy(at(18), Some(WaitCause::FullerBatch));
        clock.set_policy(at(20), None);
        let waits = clock.read(at(21));
        let millis = WaitCause::ALL.map(|cause| waits.of(cause).as_millis());
        assert_eq!(millis, [10, 5, 4, 0, 2]);
        assert_eq!(waits.total(), Duration::from_millis(21));
        assert_eq!(clock.read(at(21)), waits, "to read changes nothing");
    }

    #[test]
    fn a_policy_that_waits_does_not_hide_that_the_workers_are_gone() {
        let mut clock = WaitClock::default();
        clock.set_workers(at(0), WaitCause::WorkersBusy);
        clock.set_policy(at(0), Some(WaitCause::FullerBatch));
        clock.set_workers(at(5), WaitCause::NoWorker);
        assert_eq!(clock.cause(), WaitCause::NoWorker);
        assert_eq!(clock.read(at(9)).of(WaitCause::NoWorker), Duration::from_millis(4));
    }

    #[test]
    fn parts_can_be_taken_apart_and_put_together() {
        let mut clock = WaitClock::default();
        let (first, second) = (clock.read(at(3)), clock.read(at(10)));
        assert_eq!(second.since(first).total(), Duration::from_millis(7));
        assert_eq!(first + second.since(first), second);
        let parts = WaitCause::ALL.map(|cause| (cause, second.of(cause)));
        assert_eq!(parts.into_iter().collect::<Waits>(), second);
        assert_eq!(first.times(3).total(), Duration::from_millis(9));
        clock.set_workers(at(10), WaitCause::Loading);
        assert_eq!(clock.read(at(4)), second, "time does not run backwards");
    }
}
