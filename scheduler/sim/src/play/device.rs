//! The device of one worker: how long batches truly take on it.

use std::collections::VecDeque;
use std::time::Duration;

use shoal_scheduler::{BatchFailure, Cost, ModelId, Timestamp};

use crate::rng::Rng;
use crate::scenario::{Curve, WorkerSpec};

/// One device. It runs one batch at a time, in the order sent.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) spec: WorkerSpec,
    /// When it will have run everything it was sent.
    pub(super) free: Timestamp,
    /// Models whose weights are there, the one that was not needed for longest first; of use only if not all can be.
    resident: VecDeque<ModelId>,
    rng: Rng,
}

/// How a batch ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    Well(Duration),
    Badly(BatchFailure),
}

/// What is to be run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    pub(super) cost: Cost,
    pub(super) is_poisoned: bool,
}

impl Load {
    /// One request more.
    pub(super) fn add(&mut self, cost: Cost, is_poison: bool) {
        self.cost.rows += cost.rows;
        self.cost.tokens += cost.tokens;
        self.cost.tokens_squared += cost.tokens_squared;
        self.is_poisoned |= is_poison;
    }
}

impl Device {
    pub(super) fn new(spec: &WorkerSpec, rng: Rng) -> Self {
        Self { spec: spec.clone(), free: Timestamp::ZERO, resident: VecDeque::new(), rng }
    }

    /// The device is empty.
    pub(super) fn reset(&mut self, now: Timestamp) {
        self.free = now;
        self.resident.clear();
    }

    /// Sees to it that a model's weights are there for a batch that comes at this time. Moves `free` to when they are, if
    /// they were not.
    pub(super) fn page_in(&mut self, comes: Timestamp, model: ModelId) -> Option<Duration> {
        let weights = self.spec.weights?;
        let there = self.resident.iter().position(|resident| *resident == model);
        let was_there = there.and_then(|at| self.resident.remove(at)).is_some();
        self.resident.push_back(model);
        if was_there {
            return None;
        }
        if self.resident.len() > weights.models_max {
            self.resident.pop_front();
        }
        self.free = comes.max(self.free) + weights.page_in;
        Some(weights.page_in)
    }

    /// Of so many models those whose weights are not there.
    pub(super) fn absent(&self, models: usize) -> Vec<ModelId> {
        (0..).take(models).map(ModelId).filter(|model| !self.resident.contains(model)).collect()
    }

    /// A batch that comes at this time: how long it takes and how it ends. Moves `free` to its end.
    pub(super) fn run(&mut self, comes: Timestamp, curve: Curve, load: Load, memory_max: u64) -> (Duration, Ending) {
        let Load { cost, is_poisoned } = load;
        let size = if cost.tokens > 0 { u64::from(cost.tokens) } else { u64::from(cost.rows) };
        let fits = size <= memory_max;
        let nanos = if fits { curve.nanos(cost) } else { curve.base_ns };
        let begins = comes.max(self.free);
        let slowness = self.spec.slowness_at(begins.since(Timestamp::ZERO)) * self.rng.lognormal(self.spec.sigma);
        let compute = Duration::from_nanos((nanos as f64 * slowness) as u64);
        self.free = Timestamp::ZERO + self.spec.end_of(begins.since(Timestamp::ZERO), compute);
        let ending = match (fits, is_poisoned) {
            (false, _) => Ending::Badly(BatchFailure::OutOfMemory),
            (true, true) => Ending::Badly(BatchFailure::Item),
            (true, false) => Ending::Well(compute),
        };
        (compute, ending)
    }
}
