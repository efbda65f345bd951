//! What runs batches on a device. Knows models and memory; knows nothing of servers, credits or connections.
//!
//! A model comes to life in two steps, so that loading never stalls serving: `prepare` reads, checks and converts it on
//! any thread, `install` makes it callable on the thread that owns the device. A batch runs in two steps as well, so
//! that a device with a queue of its own can have several in flight: `launch` hands over everything the batch needs and
//! `poll` asks for what became of it. A backend that computes on the calling thread does all its work in `launch`.

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::batch::{BatchError, HostBatch, ItemResult};
use crate::card::ModelCard;
use crate::model::ReadError;
use crate::source::{ModelSource, Precision};

mod candle;
mod echo;
mod stack;
mod synthetic;

pub(crate) use stack::Stack;

/// One device and the models on it. Threads take turns at it.
pub(crate) trait Backend: Send {
    /// A model that was read and checked, but is not on the device.
    type Prepared: Send + 'static;
    /// A launched batch. Owns every buffer the batch still needs.
    type Ticket: std::fmt::Debug + Send;

    /// Reads a model, on any thread. `progress` is told the part that is done, in [0, 1].
    fn prepare(
        request: &PrepareRequest,
        compute: &Compute,
        progress: &mut dyn FnMut(f32),
    ) -> Result<(Self::Prepared, ModelCard), LoadError>;

    /// Batches that may be launched and not finished.
    fn depth(&self) -> usize;

    /// Whether this batch takes less time than waking another thread would, and is computed by `launch` itself. Such a
    /// batch may run on the thread that carries the link, which hears nothing meanwhile.
    fn is_brief(&self, batch: &HostBatch) -> bool;

    /// Makes a model callable under a name, in place of one that had it.
    fn install(&mut self, name: &Arc<str>, prepared: Self::Prepared) -> Result<(), LoadError>;

    /// Frees a model. Nothing happens if there is none of that name.
    fn evict(&mut self, name: &str);

    /// Starts a batch of which only the rows in `live` are wanted.
    ///
    /// A panic in here fails the batch and nothing else: installed models are only read by a launch, so none can be
    /// left half-written. A backend for which that is not so must catch its own panics.
    fn launch(&mut self, batch: &HostBatch, live: &[u32]) -> Result<Self::Ticket, BatchError>;

    /// The results of a launched batch, one for each live row, once it is done. Not called again after that.
    fn poll(&mut self, ticket: &mut Self::Ticket) -> Option<Result<Vec<ItemResult>, BatchError>>;
}

/// A model to read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PrepareRequest {
    pub(crate) name: Arc<str>,
    pub(crate) source: ModelSource,
    pub(crate) precision: Precision,
}

/// The threads that CPU backends compute on.
#[derive(Clone, Debug)]
pub(crate) struct Compute {
    pub(crate) pool: Arc<rayon::ThreadPool>,
}

impl Compute {
    /// A pool of `threads` threads, or of as many as the machine offers.
    pub(crate) fn new(threads: Option<NonZeroUsize>) -> Result<Self, rayon::ThreadPoolBuildError> {
        let threads = threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("shoal-compute-{index}"))
            .build()?;
        Ok(Self { pool: Arc::new(pool) })
    }

    pub(crate) fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

/// Why a model cannot be served: one line a person can act on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("the candle backend reads models from a folder only")]
    NoFolder,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the {backend} backend does not compute in {wanted}, only in {offered}")]
    Precision { backend: &'static str, wanted: &'static str, offered: &'static str },
    #[error("synthetic.{field} is {value}, but must be from 0 to {max}")]
    Curve { field: &'static str, value: f64, max: f64 },
}

/// Refuses any precision but the one a backend computes in.
fn expect_precision(backend: &'static str, wanted: Precision, offered: Precision) -> Result<&'static str, LoadError> {
    if wanted == Precision::Auto || wanted == offered {
        return Ok(offered.name());
    }
    Err(LoadError::Precision { backend, wanted: wanted.name(), offered: offered.name() })
}
