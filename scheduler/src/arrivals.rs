//! When the waiting requests of a queue arrived: only ever asked for the oldest.
//!
//! A list in order of arrival, from which nothing is taken but at its front. A request that leaves from the middle stays
//! in the list as a trace of itself, until it is the oldest or until most of the list is such traces. That is cheaper
//! than an ordered set by half, and as exact.

use alloc::collections::VecDeque;

use crate::Timestamp;
use crate::queue::Rank;

/// Traces that are always put up with.
const TRACES_MIN: usize = 64;

/// The waiting requests by arrival, and traces of some that left. The first is never a trace.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    by_age: VecDeque<(Timestamp, Rank)>,
    /// About so many of them are traces: one whose request came back is none, and is counted.
    traces: usize,
}

impl Arrivals {
    /// A request begins to wait. Nearly always the latest to arrive; one that comes back goes to its old place.
    pub(crate) fn push(&mut self, arrived: Timestamp, rank: Rank) {
        let at = match self.by_age.back() {
            Some((latest, _)) if *latest > arrived => self.by_age.partition_point(|(other, _)| *other <= arrived),
            _ => self.by_age.len(),
        };
        self.by_age.insert(at, (arrived, rank));
    }

    /// A request no longer waits. `is_waiting` tells of the others.
    pub(crate) fn remove(&mut self, rank: Rank, is_waiting: impl Fn(&Rank) -> bool) {
        self.traces += 1;
        if self.by_age.front().is_some_and(|(_, first)| *first == rank) {
            while self.by_age.front().is_some_and(|(_, first)| !is_waiting(first)) {
                self.by_age.pop_front();
                self.traces = self.traces.saturating_sub(1);
            }
        }
        if self.traces > TRACES_MIN && self.traces > self.by_age.len() / 2 {
            self.by_age.retain(|(_, rank)| is_waiting(rank));
            self.traces = 0;
        }
    }

    /// When the oldest waiting request arrived.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.by_age.front().map(|(arrived, _)| *arrived)
    }

    /// Entries kept, traces included.
    pub(crate) fn len(&self) -> usize {
        self.by_age.len()
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;
    use crate::{Class, RequestId};

    fn rank(id: u64) -> Rank {
        Rank { late: false, class: Class::Standard, due: Timestamp::ZERO, id: RequestId(id) }
    }

    #[test]
    fn always_knows_the_oldest_and_forgets_those_that_left() {
        let mut waiting = BTreeMap::new();
        let mut arrivals = Arrivals::default();
        let mut random = 1u64;
        for step in 0..20_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pick = (random >> 33) as usize;
            if waiting.len() < 10 || pick.is_multiple_of(2) && waiting.len() < 300 {
                // One in eight comes back from a worker with the arrival it had.
                let arrived =
                    Timestamp::from_millis(if pick.is_multiple_of(8) { step.saturating_sub(50) } else { step });
                waiting.insert(rank(step), arrived);
                arrivals.push(arrived, rank(step));
            } else {
                let left = *waiting.keys().nth(pick % waiting.len()).expect("one of them");
                waiting.remove(&left);
                arrivals.remove(left, |rank| waiting.contains_key(rank));
            }
            assert_eq!(arrivals.oldest(), waiting.values().min().copied());
            assert!(arrivals.len() <= 2 * waiting.len() + TRACES_MIN + 2, "{} of {}", arrivals.len(), waiting.len());
        }
    }

    #[test]
    fn a_request_may_leave_come_back_and_leave_again() {
        let mut arrivals = Arrivals::default();
        let at = Timestamp::from_millis;
        arrivals.push(at(1), rank(1));
        arrivals.push(at(2), rank(2));
        arrivals.remove(rank(2), |other| *other == rank(1));
        arrivals.push(at(2), rank(2));
        arrivals.remove(rank(1), |other| *other == rank(2));
        assert_eq!(arrivals.oldest(), Some(at(2)));
        arrivals.remove(rank(2), |_| false);
        assert_eq!((arrivals.oldest(), arrivals.len()), (None, 0));
    }
}
