//! From instants to the time of day, which spans are told in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Clock {
    pub(super) began: Instant,
    /// Unix time at `began` in nanoseconds, as the machine's clock has it of late.
    origin: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        let clock = Self { began: Instant::now(), origin: AtomicU64::new(0) };
        clock.set();
        clock
    }

    /// Follows the machine's clock, which may have been set.
    pub(super) fn set(&self) {
        // A clock before 1970 shows every span at its beginning.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let origin = now.saturating_sub(self.began.elapsed());
        self.origin.store(u64::try_from(origin.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Unix time at its beginning.
    pub(super) fn origin(&self) -> u64 {
        self.origin.load(Ordering::Relaxed)
    }
}
