//! Who has how much of a device's memory. Everything that models, batches and graphs take is entered here before it is
//! asked of the driver, so that no two owners count on the same bytes.

use std::sync::{Arc, Mutex};

use super::lock;

/// The bytes of one device.
#[derive(Debug)]
pub(crate) struct Ledger {
    total: u64,
    used: Mutex<u64>,
}

/// Bytes that are somebody's, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    ledger: Arc<Ledger>,
    bytes: u64,
}

impl Ledger {
    pub(crate) fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { total, used: Mutex::new(0) })
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn used(&self) -> u64 {
        *lock(&self.used)
    }

    /// Whether that many are free.
    pub(crate) fn has(&self, bytes: u64) -> bool {
        self.used().checked_add(bytes).is_some_and(|sum| sum <= self.total)
    }

    /// None if that many are not free.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let mut used = lock(&self.used);
        let sum = used.checked_add(bytes).filter(|sum| *sum <= self.total)?;
        *used = sum;
        Some(Reservation { ledger: self.clone(), bytes })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *lock(&self.ledger.used) -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_is_given_twice_and_all_come_back() {
        let ledger = Ledger::new(100);
        let first = ledger.reserve(60).unwrap();
        assert!(ledger.reserve(41).is_none() && ledger.reserve(u64::MAX).is_none());
        let second = ledger.reserve(40).unwrap();
        assert_eq!((ledger.used(), ledger.total()), (100, 100));
        drop(first);
        assert_eq!(ledger.used(), 40);
        drop(second);
        assert_eq!(ledger.used(), 0);
    }
}
