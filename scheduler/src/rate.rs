//! How fast something was served lately, in whole numbers: the ground of every `retry_after`.

use core::time::Duration;

use crate::windows::Windows;
use crate::{GroupId, Timestamp};

/// Long enough to see several batches of a slow model, short enough to forget a stall.
const WINDOW: Duration = Duration::from_secs(5);
/// Who was refused longer ago has come back, or is not going to.
const REFUSED_WINDOW: Duration = Duration::from_secs(1);
/// What to say when nothing was served lately.
const UNKNOWN: Duration = Duration::from_secs(1);
/// A client that comes back sooner only adds load.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(10);
/// Beyond this the estimate says no more than "later". Spread, that is half a minute.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(20);

/// Counts what was served.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate(Windows);

/// An estimate within what a client can be told.
pub(crate) fn bounded(retry_after: Duration) -> Duration {
    retry_after.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
}

/// Counts those that were refused, who are going to come back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Refused(Windows);

impl Refused {
    pub(crate) fn add(&mut self, now: Timestamp) {
        self.0.add(now, REFUSED_WINDOW, 1);
    }

    pub(crate) fn lately(&self, now: Timestamp) -> u64 {
        self.0.lately(now, REFUSED_WINDOW)
    }
}

/// Up to half as long again, for each call another: those that are refused together must not come back together.
pub(crate) fn spread(retry_after: Duration, call: GroupId) -> Duration {
    // The upper half of a product by a number without pattern is as good as drawn.
    let drawn = call.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let more = (retry_after.as_nanos() * u128::from(drawn)) >> 33;
    retry_after + Duration::from_nanos(u64::try_from(more).unwrap_or(0))
}

impl Rate {
    pub(crate) fn add(&mut self, now: Timestamp, served: u64) {
        self.0.add(now, WINDOW, served);
    }

    /// The time in which `amount` more should be served, within bounds a client can be told.
    pub(crate) fn retry_after(mut self, now: Timestamp, amount: u64) -> Duration {
        self.0.roll(now, WINDOW);
        let Windows { started, current, previous } = self.0;
        let served = u128::from(current) + u128::from(previous);
        let mut span = now.since(started);
        if previous > 0 {
            span += WINDOW;
        }
        let estimate = match (span.as_nanos() * u128::from(amount)).checked_div(served) {
            Some(nanos) => Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)),
            None => UNKNOWN,
        };
        bounded(estimate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_refused_together_come_back_apart() {
        let after = Duration::from_millis(100);
        let mut times: Vec<_> = (1..=1_000).map(|call| spread(after, GroupId(call))).collect();
        times.sort_unstable();
        assert!(times.iter().all(|time| (after..after / 2 * 3).contains(time)));
        // A tenth of them in each tenth of the span, give or take.
        for tenth in 0..10 {
            let (from, to) = (after + after / 20 * tenth, after + after / 20 * (tenth + 1));
            let count = times.iter().filter(|time| (from..to).contains(time)).count();
            assert!((90..=110).contains(&count), "{count} from {from:?}");
        }
    }
}
