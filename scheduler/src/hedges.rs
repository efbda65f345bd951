//! How many batches may run a second time, and which wait for it.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::BatchId;
use crate::inflight::InFlight;

/// What a hedge costs. Each batch brings what [`Limits`](crate::Limits) say in a thousand.
const PRICE: u32 = 1_000;
/// So many at once at most, when none was for long.
const BURST: u32 = 4;

/// A bucket of hedges, filled by batches, and the batches that were slow and may need one.
#[derive(Debug)]
pub(crate) struct Hedges {
    /// Of each batch.
    per_mille: u32,
    /// In thousandths of a hedge. Empty at first.
    saved: u32,
    count: u64,
    /// Until they end or need none.
    slow: BTreeSet<BatchId>,
}

impl Hedges {
    pub(crate) fn new(per_mille: u16) -> Self {
        Self { per_mille: per_mille.into(), saved: 0, count: 0, slow: BTreeSet::new() }
    }

    /// A batch was sent.
    pub(crate) fn earn(&mut self) {
        self.saved = (self.saved + self.per_mille).min(PRICE * BURST);
    }

    /// Whether there is one to spend.
    pub(crate) fn can_spend(&self) -> bool {
        self.saved >= PRICE
    }

    /// A batch was sent for the second time.
    pub(crate) fn spend(&mut self) {
        self.saved = self.saved.saturating_sub(PRICE);
        self.count += 1;
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn want(&mut self, batch: BatchId) {
        self.slow.insert(batch);
    }

    pub(crate) fn forget(&mut self, batch: BatchId) {
        self.slow.remove(&batch);
    }

    /// Batches that may need one, oldest first.
    pub(crate) fn wanted(&self) -> Vec<BatchId> {
        self.slow.iter().copied().collect()
    }

    pub(crate) fn assert_invariants(&self, inflight: &InFlight) {
        assert!(self.saved <= PRICE * BURST, "hedges are saved up to a bound");
        assert!(self.slow.iter().all(|id| inflight.get(*id).is_some()), "a batch that is over needs no hedge");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_one_in_fifty_and_no_more_than_four_at_once() {
        let mut hedges = Hedges::new(20);
        for batches in 1..=10_000 {
            hedges.earn();
            // All at once, after every hundredth and after a long quiet.
            while (batches % 100 == 0 && batches < 5_000 || batches == 10_000) && hedges.can_spend() {
                hedges.spend();
            }
            assert!(hedges.count() * 50 <= batches, "{} of {batches}", hedges.count());
        }
        assert_eq!(hedges.count(), 2 * 49 + 4);
    }
}
