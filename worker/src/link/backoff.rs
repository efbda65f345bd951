//! How long to wait before dialling again.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(5);

/// Doubling waits from 50 ms to 5 s, each drawn from its upper half, so that workers that lost a server together do not
/// come back together.
#[derive(Debug)]
pub(super) struct BackOff {
    next: Duration,
    random: SmallRng,
}

impl BackOff {
    pub(super) fn new(seed: u64) -> Self {
        Self { next: FIRST, random: SmallRng::seed_from_u64(seed) }
    }

    /// The next wait.
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.next.mul_f64(self.random.random_range(0.5..=1.0));
        self.next = (self.next * 2).min(LAST);
        wait
    }

    /// It worked: begin again with short waits.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_begin_again() {
        let mut back_off = BackOff::new(1);
        let waits: Vec<Duration> = (0..20).map(|_| back_off.next()).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST, "{waits:?}");
        assert!(waits[10..].iter().all(|wait| *wait >= LAST / 2 && *wait <= LAST), "{waits:?}");
        back_off.reset();
        assert!(back_off.next() <= FIRST);
    }

    #[test]
    fn two_workers_wait_differently() {
        assert_ne!(BackOff::new(1).next(), BackOff::new(2).next());
    }
}
