//! What runs batches on a device. Knows models and memory; knows nothing of servers, credits or connections.
//!
//! A model comes to life in two steps, so that loading never stalls serving: `prepare` reads, checks and converts it on
//! any thread, `install` makes it callable on the thread that owns the device. A batch runs in two steps as well, so
//! that a device with a queue of its own can have several in flight: `launch` hands over everything the batch needs and
//! `poll` asks for what became of it. A backend that computes on the calling thread does all its work in `launch`.

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::batch::{BatchError, HostBatch, ItemResult, PageIn};
use crate::card::ModelCard;
use crate::cpu::isa::CpuIsa;
use crate::cpu::team::Team;
use crate::cuda::driver::DriverError;
use crate::model::ReadError;
use crate::source::{ModelSource, Precision};

mod candle;
#[cfg(target_arch = "x86_64")]
mod cpu;
mod cuda;
mod echo;
mod engine;
mod planned;
mod stack;
mod synthetic;

#[cfg(feature = "gpu-check")]
pub(crate) use cuda::Cuda;
pub(crate) use cuda::Gpu;
pub(crate) use engine::Engine;
pub(crate) use planned::Planned;
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
    /// A panic in here fails the batch and nothing else: of installed models a launch writes only what the next one
    /// overwrites. A backend for which that is not so must catch its own panics.
    fn launch(&mut self, batch: &HostBatch, live: &[u32]) -> Result<Self::Ticket, BatchError>;

    /// The results of a launched batch, one for each live row, once it is done. Not called again after that.
    fn poll(&mut self, ticket: &mut Self::Ticket) -> Option<Result<Vec<ItemResult>, BatchError>>;

    /// Models whose weights are not on the device; `None` where nothing came or went since `seen`, which it sets. Asked after
    /// everything the device does. Nothing where all models are there for good.
    fn absent(&self, seen: &mut u64) -> Option<Vec<Arc<str>>> {
        let _ = seen;
        None
    }

    /// What had to come onto the device for a batch that is done, and how long of the time after `since` that took. Nothing
    /// where all models are there for good.
    fn page_in(&self, ticket: &Self::Ticket, since: Instant) -> Option<PageIn> {
        let _ = (ticket, since);
        None
    }
}

/// A model to read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PrepareRequest {
    pub(crate) name: Arc<str>,
    pub(crate) source: ModelSource,
    pub(crate) precision: Precision,
}

/// What backends compute with: one set of threads for all models of a worker, the instructions to use, and the GPU if the
/// worker has one.
#[derive(Clone, Debug)]
pub(crate) struct Compute {
    pub(crate) gpu: Option<Arc<Gpu>>,
    /// Whether models that the GPU has no kernels for run on the processor.
    pub(crate) falls_back: bool,
    threads: NonZeroUsize,
    /// Whoever computes holds it for as long as a batch takes.
    pub(crate) team: Arc<Mutex<Team>>,
    pub(crate) isa: CpuIsa,
    /// candle's threads, once something runs on candle: an idle pool is not free.
    pool: Arc<Mutex<Option<Arc<rayon::ThreadPool>>>>,
}

impl Compute {
    /// A team of `threads` threads, or of as many as the machine offers, that computes with these instructions.
    pub(crate) fn new(threads: Option<NonZeroUsize>, isa: CpuIsa) -> io::Result<Self> {
        // Kernels trust it: no more than there is.
        let isa = isa.min(CpuIsa::detect());
        let offered = || std::thread::available_parallelism().ok();
        let threads = threads.or_else(offered).unwrap_or(NonZeroUsize::MIN);
        let team = Arc::new(Mutex::new(Team::new(threads)?));
        Ok(Self { gpu: None, falls_back: false, threads, team, isa, pool: Arc::default() })
    }

    /// With a GPU, on which models run that it has kernels for; others on the processor, if that is wanted.
    pub(crate) fn with_gpu(self, gpu: Arc<Gpu>, falls_back: bool) -> Self {
        Self { gpu: Some(gpu), falls_back, ..self }
    }

    /// The same with other threads for candle, which end with what is computed on them.
    fn with_own_pool(&self) -> Self {
        Self { pool: Arc::default(), ..self.clone() }
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads.get()
    }

    /// As many threads of rayon's, which candle computes on. Made when first asked for.
    fn pool(&self) -> Result<Arc<rayon::ThreadPool>, LoadError> {
        let mut made = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = &*made {
            return Ok(pool.clone());
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads())
            .thread_name(|index| format!("shoal-candle-{index}"))
            .build()?;
        Ok(made.insert(Arc::new(pool)).clone())
    }
}

/// Why a model cannot be served: one line a person can act on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("models with weights are read from a folder only")]
    NoFolder,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("computing with it failed: {0}")]
    Compute(#[from] candle_core::Error),
    #[error("its smallest batch failed: {0}")]
    Smallest(BatchError),
    #[error("running the sample that its types of numbers are chosen by failed: {0}")]
    Sample(BatchError),
    #[error("none of its products can be of bytes: use bf16")]
    NoProducts,
    #[error("cannot start candle's threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    #[error("the {backend} backend does not compute in {wanted}, only in {offered}")]
    Precision { backend: &'static str, wanted: &'static str, offered: &'static str },
    #[error("its batches would take {bytes} bytes beside its weights, and {max} is the most")]
    Memory { bytes: usize, max: usize },
    #[error("dtype {wanted} needs AVX-512 with BF16 and VNNI, and this worker computes with {isa}: use f32")]
    Instructions { wanted: &'static str, isa: &'static str },
    #[error("{tensors} has {number}, which is too large for {dtype}: use bf16 or f32")]
    TooLarge { number: f32, tensors: String, dtype: &'static str },
    #[error("this worker has no GPU")]
    NoGpu,
    #[error("not on the GPU: {gpu}; nor on the processor: {processor}")]
    Nowhere { gpu: Box<LoadError>, processor: Box<LoadError> },
    #[error(transparent)]
    Unsupported(#[from] cuda::Unsupported),
    #[error("the GPU failed: {0}")]
    Driver(#[from] DriverError),
    #[error("its weights take {bytes} bytes and its largest batch {arena}, and this worker may take {max} of the GPU")]
    Device { bytes: u64, arena: u64, max: u64 },
    #[error("synthetic.{field} is {value}, but must be from 0 to {max}")]
    Curve { field: &'static str, value: f64, max: f64 },
}

impl LoadError {
    /// What broke the device, if that is why.
    pub(crate) fn breaks(&self) -> Option<&str> {
        match self {
            Self::Driver(DriverError::Broken(reason))
            | Self::Smallest(BatchError::Broken(reason))
            | Self::Sample(BatchError::Broken(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Whether the model is fine, and only not for this kind of device.
    fn is_for_another_device(&self) -> bool {
        matches!(self, Self::Unsupported(_) | Self::Precision { .. } | Self::Device { .. })
    }
}

/// Refuses any precision but the one a backend computes in.
fn expect_precision(backend: &'static str, wanted: Precision, offered: Precision) -> Result<&'static str, LoadError> {
    if wanted == Precision::Auto || wanted == offered {
        return Ok(offered.name());
    }
    Err(LoadError::Precision { backend, wanted: wanted.name(), offered: offered.name() })
}
