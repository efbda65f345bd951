//! One GPU, as all threads of a worker share it.

use std::sync::{Arc, Mutex};

use super::DEPTH;
use super::shape::Shape;
use super::weights::Backbones;
use crate::backend::LoadError;
use crate::backend::planned::pack::Limits;
use crate::cuda::driver::{Driver, DriverError};
use crate::cuda::ledger::{Ledger, Reservation};
use crate::cuda::queue::Queue;
use crate::cuda::slot;
use crate::model::Model;

/// A device as all threads of a worker share it.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) compute: Queue,
    /// Copies results out, each behind the batch that makes it.
    pub(super) copies: Queue,
    /// Brings weights in, behind nothing, so that they come while others compute.
    pub(super) paging: Queue,
    /// The thread's that reads models: nobody waits for it.
    pub(super) loading: Queue,
    pub(super) backbones: Backbones,
    /// What the driver takes for the streams that compute: batches, and what is timed at load.
    _workspaces: Reservation,
    /// Held while the compute stream is captured: nobody else may give it anything then.
    pub(super) capturing: Arc<Mutex<()>>,
    /// The largest batch that comes.
    pub(super) tokens_max: usize,
    pub(super) rows_max: usize,
}

impl Gpu {
    /// Takes `memory_max` bytes of the device at most.
    pub(crate) fn new(
        driver: Arc<dyn Driver>,
        memory_max: u64,
        tokens_max: usize,
        rows_max: usize,
    ) -> Result<Arc<Self>, DriverError> {
        let queue = || Queue::new(&driver);
        let (compute, copies, paging, loading) = (queue()?, queue()?, queue()?, queue()?);
        let ledger = Ledger::new(memory_max);
        let workspaces = 2 * driver.workspace();
        let out_of_memory = DriverError::OutOfMemory { bytes: workspaces as usize };
        let _workspaces = ledger.reserve(workspaces).ok_or(out_of_memory)?;
        let backbones = Backbones::default();
        Ok(Arc::new(Self {
            driver,
            ledger,
            compute,
            copies,
            paging,
            loading,
            backbones,
            _workspaces,
            capturing: Arc::default(),
            tokens_max,
            rows_max,
        }))
    }

    pub(crate) fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// Tokens of the largest batch that comes.
    #[cfg(feature = "gpu-check")]
    pub(crate) fn tokens_max(&self) -> usize {
        self.tokens_max
    }

    /// The same device with room for small batches and half as many weights as these.
    #[cfg(feature = "gpu-check")]
    pub(crate) fn half_of(&self, weights: u64) -> Result<Arc<Self>, DriverError> {
        Self::new(self.driver.clone(), weights / 2 + (64 << 20) + 2 * self.driver.workspace(), 512, 16)
    }

    /// Whether so many bytes of weights can be there beside an arena, and the results of the batches in flight.
    pub(super) fn check_room(&self, bytes: u64, arena: u64, results: u64) -> Result<(), LoadError> {
        let max = self.ledger.total() - 2 * self.driver.workspace();
        let arena = arena + DEPTH as u64 * results.next_multiple_of(slot::STEP_BYTES as u64);
        if bytes + arena > max { Err(LoadError::Device { bytes, arena, max }) } else { Ok(()) }
    }

    /// How a need stands to what there is, for people.
    pub(super) fn account(&self, needed: usize) -> String {
        format!("it takes {needed} bytes, and {} of {} are in use", self.ledger.used(), self.ledger.total())
    }

    /// The largest batch of a model.
    pub(super) fn largest(&self, model: &Model, limits: &Limits) -> Shape {
        let tokens = self.tokens_max.max(model.tokens_max);
        // Marks of what runs together end with the row that reaches their limit.
        let marks = if model.mask_token.is_some() { (2 * limits.marks_max).min(tokens) } else { 0 };
        Shape { tokens, sequences: self.rows_max.min(tokens), marks }.bucket()
    }
}
