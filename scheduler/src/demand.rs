//! How much of the workers' time is asked for: what arrived lately, in the time it takes in large batches.

use core::time::Duration;

use crate::Timestamp;
use crate::time::part_of;

/// Long enough to see what is usual, short enough to see a burst.
const WINDOW: Duration = Duration::from_secs(1);

/// Time asked for in this window and the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demand {
    started: Timestamp,
    current: Duration,
    previous: Duration,
}

impl Demand {
    pub(crate) fn add(&mut self, now: Timestamp, time: Duration) {
        let age = now.since(self.started);
        if age >= WINDOW * 2 {
            *self = Self { started: now, current: Duration::ZERO, previous: Duration::ZERO };
        } else if age >= WINDOW {
            *self = Self { started: self.started + WINDOW, current: Duration::ZERO, previous: self.current };
        }
        self.current = self.current.saturating_add(time);
    }

    /// Of each second, as of the last that was added: all of this window, and of the one before what is less than a window
    /// ago.
    pub(crate) fn per_second(&self, now: Timestamp) -> Duration {
        let age = now.since(self.started);
        if age >= WINDOW * 2 {
            return Duration::ZERO;
        }
        let left = WINDOW.saturating_sub(age);
        self.current.saturating_add(part_of(self.previous, left, WINDOW))
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
