//! Where a batch's inputs and results lie on their way: pinned memory of the host, and memory of the device in which the
//! results wait while the next batch is computed. Kept from batch to batch.

use std::sync::Arc;

use super::driver::DriverError;
use super::ledger::{Ledger, Reservation};
use super::memory::{DeviceMemory, Part, PinnedMemory};
use super::queue::{Mark, Queue};

/// Sizes grow in these steps, so that they soon grow no more.
pub(crate) const STEP_BYTES: usize = 64 << 10;

/// Slots that no batch has.
#[derive(Debug)]
pub(crate) struct Slots {
    compute: Queue,
    copies: Queue,
    ledger: Arc<Ledger>,
    free: Vec<Slot>,
}

/// One batch's. It begins empty, is filled, copied in, copied out, and read when that is done.
#[derive(Debug)]
pub(crate) struct Slot {
    compute: Queue,
    copies: Queue,
    input: PinnedMemory,
    output: PinnedMemory,
    results: DeviceMemory,
    _reservation: Reservation,
    /// Bytes of inputs, and of results.
    used: (usize, usize),
    computed: Mark,
    copied: Mark,
    /// Whether the device may be at it.
    is_away: bool,
}

impl Slots {
    /// For batches that are computed on one queue and copied back on the other, which may be the same.
    pub(crate) fn new(compute: &Queue, copies: &Queue, ledger: &Arc<Ledger>) -> Self {
        Self { compute: compute.clone(), copies: copies.clone(), ledger: ledger.clone(), free: Vec::new() }
    }

    /// One with room for so many bytes of inputs and of results.
    ///
    /// # Errors
    /// When the ledger or the device has no room for the results, among others.
    pub(crate) fn take(&mut self, input: usize, output: usize) -> Result<Slot, DriverError> {
        let fits = |slot: &Slot| slot.input.span().bytes >= input && slot.output.span().bytes >= output;
        if let Some(index) = self.free.iter().position(fits) {
            let mut slot = self.free.swap_remove(index);
            slot.used = (input, output);
            return Ok(slot);
        }
        // One that is too small makes room for one that is not.
        let before =
            self.free.pop().map(|slot| (slot.input.span().bytes, slot.output.span().bytes)).unwrap_or_default();
        let room = [before.0.max(input), before.1.max(output)].map(|bytes| bytes.next_multiple_of(STEP_BYTES));
        let reservation = self.ledger.reserve(room[1] as u64).ok_or(DriverError::OutOfMemory { bytes: room[1] })?;
        let (driver, compute) = (self.compute.driver(), self.compute.stream());
        Ok(Slot {
            compute: self.compute.clone(),
            copies: self.copies.clone(),
            input: PinnedMemory::new(driver, room[0])?,
            output: PinnedMemory::new(driver, room[1])?,
            results: DeviceMemory::new(driver, compute, compute, room[1])?,
            _reservation: reservation,
            used: (input, output),
            computed: Mark::new(driver)?,
            copied: Mark::new(driver)?,
            is_away: false,
        })
    }

    /// Takes back a slot that is done.
    pub(crate) fn put_back(&mut self, slot: Slot) {
        self.free.push(slot);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_away {
            // The results are given back behind what computes, and so behind what copies them. Pinned memory is waited for.
            let _: Result<(), DriverError> = self.compute.wait(&self.copied);
        }
    }
}

impl Slot {
    /// Has the inputs written and copied to the device.
    ///
    /// # Panics
    /// If the device is at it.
    pub(crate) fn copy_in(&mut self, write: impl FnOnce(&mut [u8]), to: Part<'_>) -> Result<(), DriverError> {
        assert!(!self.is_away, "the device may be reading it");
        // SAFETY: the device was done with it when it was put back, or never had it.
        let bytes = unsafe { self.input.bytes_mut() };
        write(&mut bytes[..self.used.0]);
        self.is_away = true;
        self.compute.copy_in(&self.input, to)
    }

    /// Has the results copied to the host, which are there when the queue has come so far.
    pub(crate) fn copy_out(&mut self, from: Part<'_>) -> Result<(), DriverError> {
        let results = self.results.part(self.results.span().part(0..from.span().bytes));
        self.is_away = true;
        // Within the device, which is quick, so that the next batch need not wait for the bus.
        self.compute.copy(from, results)?;
        self.compute.record(&self.computed)?;
        self.copies.wait(&self.computed)?;
        self.copies.copy_out(results, &self.output)?;
        self.copies.record(&self.copied)
    }

    /// Whether the results are on the host.
    pub(crate) fn is_done(&mut self) -> Result<bool, DriverError> {
        if self.is_away && self.copied.is_past()? {
            self.is_away = false;
        }
        Ok(!self.is_away)
    }

    /// The results.
    ///
    /// # Panics
    /// If they are not there.
    pub(crate) fn results(&self) -> &[u8] {
        assert!(!self.is_away, "the device may be writing it");
        // SAFETY: the copy to it is done, and nothing else writes it.
        let bytes = unsafe { self.output.bytes() };
        &bytes[..self.used.1]
    }
}
