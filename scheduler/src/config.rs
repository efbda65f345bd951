//! What the core is configured with: every queue and every loop has a number.

use alloc::vec::Vec;
use core::num::{NonZeroU16, NonZeroU32};
use core::time::Duration;

use crate::ModelId;

/// Limits of the whole scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests queued for one tenant, over all models.
    pub tenant_requests_max: u32,
    /// Requests queued in one class, over all models.
    pub class_requests_max: u32,
    /// Bytes of payload queued in all.
    pub queue_bytes_max: u64,
    /// How often a request is lost with a worker that could have been running it before it fails. Being sent again
    /// because its batch was halved, or because its worker had not come to it, does not count.
    pub attempts_max: NonZeroU16,
    /// Whether workers serve other schedulers as well. Then they give turns instead of credits, to those whose
    /// [`Output::Bid`](crate::Output::Bid) is the most urgent; [`Arbiter`](crate::Arbiter) is their side of it.
    pub workers_are_shared: bool,
    /// Batches in a thousand, at most, that are run a second time beside the first when that is slow.
    pub hedges_per_mille: u16,
}

impl Default for Limits {
    fn default() -> Self {
        const THREE: NonZeroU16 = NonZeroU16::new(3).unwrap();
        Self {
            tenant_requests_max: 65_536,
            class_requests_max: 131_072,
            queue_bytes_max: 1 << 30,
            attempts_max: THREE,
            workers_are_shared: false,
            hedges_per_mille: 20,
        }
    }
}

/// One model, as the core needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// Its name inside the server.
    pub id: ModelId,
    /// The latency objective: a soft deadline that orders the queue.
    pub objective: Duration,
    /// Requests queued for this model at most.
    pub queue_requests_max: NonZeroU32,
    /// How long a request may wait before it fails.
    pub queue_time_max: Duration,
    /// How long one batch may run before its worker counts as hung.
    pub batch_time_max: Duration,
    /// The largest batch in rows, whatever a credit allows.
    pub batch_rows_max: NonZeroU32,
    /// The largest batch in tokens, whatever a credit allows.
    pub batch_tokens_max: NonZeroU32,
    /// When a batch is closed.
    pub policy: PolicyConfig,
    /// What batches were found to cost before, if they were. Looked at when the model is new; from then on it is learned.
    pub cost: Option<BatchCost>,
}

/// What a batch costs: a base, and so much for each row, each token, and each token squared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchCost {
    /// Nanoseconds of every batch.
    pub base_ns: u64,
    /// Nanoseconds of a row.
    pub row_ns: u64,
    /// Picoseconds of a token.
    pub token_ps: u64,
    /// Femtoseconds of a squared token: a row of n tokens has n² of them.
    pub token_squared_fs: u64,
}

/// What batches were found to cost on a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedCost {
    /// What they cost.
    pub cost: BatchCost,
    /// Batches of the model that taught it, on whichever worker, since the model was configured.
    pub samples: u64,
}

/// What a row of a model may look like that nobody sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRow {
    /// Tokens in one row at most; 0 for models that have none.
    pub tokens_max: u32,
    /// Bytes of payload of a row …
    pub row_bytes: u32,
    /// … and of each of its tokens.
    pub token_bytes: u32,
    /// What the smallest batch takes, as far as anybody knows; else zero.
    pub time: Duration,
}

/// What becomes of requests that cannot meet their objective any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLate {
    /// They run behind all that can still be on time, until their deadline or the model's `queue_time_max`.
    #[default]
    Serve,
    /// They fail with [`Failure::Shed`](crate::Failure::Shed) when a worker is free next.
    Shed,
}

/// What others do, to be measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// Clipper: the largest batch grows by one row and shrinks by a tenth.
    Aimd,
    /// BentoML: a line over rows, and heads cancelled that it says are late.
    Bento,
    /// A simple Symphony: wait as long as the objective allows.
    LastMoment,
    /// Nexus: batches of a size chosen beforehand, and heads dropped that cannot wait for one.
    Nexus {
        /// That size.
        rows: NonZeroU32,
    },
}

/// Which policy closes batches, and its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyConfig {
    /// One of those that others use.
    Baseline(Baseline),
    /// Close as soon as a worker has a credit, with all that fits.
    Fixed,
    /// Triton's dynamic batcher: wait for a preferred size, at most so long.
    Triton {
        /// How long the oldest request may wait for a fuller batch.
        queue_delay_max: Duration,
        /// Sizes in rows worth closing at, ascending.
        preferred_rows: Vec<NonZeroU32>,
    },
    /// Learn what batches cost, and let the objective decide: how large they are, how long they wait, who is late.
    Learned {
        /// How much waiting a batch saved is worth: an idle worker waits for a fuller batch until the queued requests have
        /// waited, in all, this many times what a batch costs by itself. 0 never waits.
        wait_price: u32,
        /// Whether it waits even when workers are mostly idle.
        waits_when_idle: bool,
        /// What becomes of requests that cannot be on time any more.
        on_late: OnLate,
    },
}
