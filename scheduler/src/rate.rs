//! How fast something was served lately, in whole numbers: the ground of every `retry_after`.

use core::time::Duration;

use crate::Timestamp;

/// Long enough to see several batches of a slow model, short enough to forget a stall.
const WINDOW: Duration = Duration::from_secs(5);
/// What to say when nothing was served lately.
const UNKNOWN: Duration = Duration::from_secs(1);
/// A client that comes back sooner only adds load.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(10);
/// Beyond this the estimate says no more than "later".
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// Counts what was served in this window and the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    /// Start of this window.
    started: Timestamp,
    current: u64,
    /// Served in the window before, if there was one.
    previous: u64,
    /// When something was served last, or was first to be.
    last: Option<Timestamp>,
}

/// An estimate within what a client can be told.
pub(crate) fn bounded(retry_after: Duration) -> Duration {
    retry_after.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
}

impl Rate {
    pub(crate) fn add(&mut self, now: Timestamp, served: u64) {
        self.roll(now);
        self.current += served;
        self.last = Some(now);
    }

    /// There is something to serve now, whatever becomes of it.
    pub(crate) fn begin(&mut self, now: Timestamp) {
        self.last.get_or_insert(now);
    }

    /// How long nothing has been served although there was something to serve at some time.
    pub(crate) fn idle(&self, now: Timestamp) -> Duration {
        self.last.map_or(Duration::ZERO, |last| now.since(last))
    }

    /// The time in which `amount` more should be served, within bounds a client can be told.
    pub(crate) fn retry_after(mut self, now: Timestamp, amount: u64) -> Duration {
        self.roll(now);
        let served = u128::from(self.current) + u128::from(self.previous);
        let mut span = now.since(self.started);
        if self.previous > 0 {
            span += WINDOW;
        }
        let estimate = match (span.as_nanos() * u128::from(amount)).checked_div(served) {
            Some(nanos) => Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)),
            None => UNKNOWN,
        };
        bounded(estimate)
    }

    fn roll(&mut self, now: Timestamp) {
        let age = now.since(self.started);
        if age >= WINDOW * 2 {
            *self = Self { started: now, current: 0, previous: 0, ..*self };
        } else if age >= WINDOW {
            *self = Self { started: self.started + WINDOW, current: 0, previous: self.current, ..*self };
        }
    }
}
