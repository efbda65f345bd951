//! Log lines that anybody who reaches a port can cause.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// From one line to the next of its kind.
const INTERVAL: Duration = Duration::from_secs(10);

/// Says when a line may be logged that anybody can cause: the first of each kind at once, then one in [`INTERVAL`].
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<BTreeMap<&'static str, Kind>>);

#[derive(Debug)]
struct Kind {
    next: Instant,
    left_out: u64,
}

impl Seldom {
    /// How many of its kind were left out since the one that was logged last; none if this one is to be left out too.
    pub(crate) fn pass(&self, kind: &'static str) -> Option<u64> {
        let now = Instant::now();
        // A poisoned lock means that a panic is already under way; what it holds is whole.
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(kind).or_insert(Kind { next: now, left_out: 0 });
        if now < kind.next {
            kind.left_out += 1;
            return None;
        }
        kind.next = now + INTERVAL;
        Some(std::mem::take(&mut kind.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_each_kind_one_passes_at_a_time_and_tells_how_many_did_not() {
        let seldom = Seldom::default();
        assert_eq!(seldom.pass("a"), Some(0));
        assert_eq!([seldom.pass("a"), seldom.pass("a")], [None, None]);
        assert_eq!(seldom.pass("b"), Some(0));
        tokio::time::advance(INTERVAL).await;
        assert_eq!([seldom.pass("a"), seldom.pass("a")], [Some(2), None]);
        assert_eq!(seldom.pass("b"), Some(0));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(seldom.pass("a"), Some(1));
    }
}
