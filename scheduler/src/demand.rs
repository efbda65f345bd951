//! How much of the workers' time is asked for: what arrived lately, in the time it takes in large batches.

use core::time::Duration;

use crate::Timestamp;
use crate::windows::Windows;

/// Long enough to see what is usual, short enough to see a burst.
const WINDOW: Duration = Duration::from_secs(1);

/// Time asked for, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demand(Windows);

impl Demand {
    pub(crate) fn add(&mut self, now: Timestamp, time: Duration) {
        self.0.add(now, WINDOW, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Of each second, as of the last that was added.
    pub(crate) fn per_second(&self, now: Timestamp) -> Duration {
        Duration::from_nanos(self.0.lately(now, WINDOW))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_evenly_is_asked_for_evenly() {
        let mut demand = Demand::default();
        for millis in 0..5_000 {
            let now = Timestamp::from_millis(millis);
            demand.add(now, Duration::from_micros(300));
            if millis > 2_000 {
                let found = demand.per_second(now).as_millis();
                assert!((295..=305).contains(&found), "{found} ms of each second at {millis} ms");
            }
        }
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut demand = Demand::default();
        demand.add(Timestamp::from_millis(0), Duration::from_secs(1));
        demand.add(Timestamp::from_millis(5_000), Duration::from_millis(2));
        assert_eq!(demand.per_second(Timestamp::from_millis(5_000)), Duration::from_millis(2));
    }
}
