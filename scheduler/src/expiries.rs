//! Which request expires next.
//!
//! A heap from which nothing is taken but what is next. A request that ends before its time, as nearly all do, leaves its
//! entry behind until that is next or until most entries are such. That is cheaper than an ordered set by far, and as exact.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::{RequestId, Timestamp};

/// Entries left behind that are always put up with.
const STALE_MIN: usize = 64;

/// Times by which requests expire. The first is never of one that has ended or expires at another time.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    heap: BinaryHeap<Reverse<(Timestamp, RequestId)>>,
    /// Requests that expire.
    len: usize,
}

impl Expiries {
    /// A request expires then; [`Timestamp::MAX`] is never.
    pub(crate) fn insert(&mut self, at: Timestamp, id: RequestId) {
        if at != Timestamp::MAX {
            self.heap.push(Reverse((at, id)));
            self.len += 1;
        }
    }

    /// A request that expired then does no more, or at another time. `is_true` tells whether some other entry holds still.
    /// Says whether it is time to [`renew`](Self::renew) them all.
    pub(crate) fn remove(&mut self, at: Timestamp, is_true: impl Fn(Timestamp, RequestId) -> bool) -> bool {
        if at == Timestamp::MAX {
            return false;
        }
        self.len -= 1;
        if self.first().is_some_and(|(first, _)| first == at) {
            while self.first().is_some_and(|(at, id)| !is_true(at, id)) {
                self.heap.pop();
            }
        }
        self.heap.len() > 2 * self.len + STALE_MIN
    }

    /// These are all.
    pub(crate) fn renew(&mut self, all: impl Iterator<Item = (Timestamp, RequestId)>) {
        let mut entries = core::mem::take(&mut self.heap).into_vec();
        entries.clear();
        entries.extend(all.filter(|(at, _)| *at != Timestamp::MAX).map(Reverse));
        entries.shrink_to(entries.len() * 4);
        self.len = entries.len();
        self.heap = entries.into();
    }

    pub(crate) fn first(&self) -> Option<(Timestamp, RequestId)> {
        self.heap.peek().map(|Reverse(first)| *first)
    }

    /// Checks against all that expire.
    pub(crate) fn assert_invariants(&self, all: impl Iterator<Item = (Timestamp, RequestId)>) {
        let mut all: Vec<_> = all.filter(|(at, _)| *at != Timestamp::MAX).collect();
        all.sort_unstable();
        assert_eq!(all.first().copied(), self.first(), "the first to expire");
        assert_eq!(all.len(), self.len, "requests that expire");
        let mut known: Vec<_> = self.heap.iter().map(|Reverse(entry)| *entry).collect();
        known.sort_unstable();
        assert!(all.iter().all(|entry| known.binary_search(entry).is_ok()), "whoever expires is known to");
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;

    #[test]
    fn always_knows_the_next_and_forgets_those_that_ended() {
        let (mut expiries, mut model, mut random) = (Expiries::default(), BTreeMap::new(), 1u64);
        for step in 0..30_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pick = random >> 33;
            let at = if pick.is_multiple_of(9) { Timestamp::MAX } else { Timestamp::from_millis(step + pick % 5_000) };
            let (id, old) = if model.len() < 10 || pick.is_multiple_of(2) && model.len() < 500 {
                (RequestId(step), None)
            } else {
                let (id, old) = model.iter().nth(pick as usize % model.len()).expect("one of them");
                (*id, Some(*old))
            };
            // One in three of those that are there gets another time, or the same again; the others end.
            let new = (old.is_none() || pick.is_multiple_of(3)).then_some(at);
            let renewed = old.is_some_and(|old| {
                model.remove(&id);
                expiries.remove(old, |at, id| model.get(&id) == Some(&at))
            });
            if let Some(at) = new {
                model.insert(id, at);
                expiries.insert(at, id);
            }
            let all = || model.iter().map(|(id, at)| (*at, *id));
            if renewed {
                expiries.renew(all());
            }
            expiries.assert_invariants(all());
            assert!(
                expiries.heap.len() <= 2 * model.len() + STALE_MIN + 2,
                "{} of {}",
                expiries.heap.len(),
                model.len()
            );
        }
    }
}
