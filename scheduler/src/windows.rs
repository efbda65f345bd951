//! What was added up lately, in two numbers: of this window of time and of the one before.

use core::time::Duration;

use crate::Timestamp;
use crate::time::part_of;

/// Sums of this window and of the one before. Whoever keeps it says each time how long a window is, always the same.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Windows {
    /// Start of this window.
    pub(crate) started: Timestamp,
    pub(crate) current: u64,
    /// Of the window before, if there was one.
    pub(crate) previous: u64,
}

impl Windows {
    pub(crate) fn add(&mut self, now: Timestamp, window: Duration, amount: u64) {
        self.roll(now, window);
        self.current = self.current.saturating_add(amount);
    }

    /// Begins the window that `now` is in.
    pub(crate) fn roll(&mut self, now: Timestamp, window: Duration) {
        let age = now.since(self.started);
        if age >= window * 2 {
            *self = Self { started: now, current: 0, previous: 0 };
        } else if age >= window {
            *self = Self { started: self.started + window, current: 0, previous: self.current };
        }
    }

    /// All of this window, and of the one before the part of it that is less than a window ago.
    pub(crate) fn lately(&self, now: Timestamp, window: Duration) -> u64 {
        let age = now.since(self.started);
        if age >= window * 2 {
            return 0;
        }
        let previous = part_of(Duration::from_nanos(self.previous), window.saturating_sub(age), window);
        self.current.saturating_add(u64::try_from(previous.as_nanos()).unwrap_or(u64::MAX))
    }
}
