//! The worker: executes batches that a server sends, on one device.
//!
//! A worker dials its server, says what it is, is told which models to hold, grants credits and answers one batch per
//! credit. It decides nothing about whose request runs when; that is the server's scheduler, or, where several servers
//! share the worker, the arbiter of the same crate. What it does decide is
//! local: how many credits hide the link's latency, which items of a batch no longer need computing, and whether it is
//! still fit to go on.
//!
//! ```text
//!   link       two gRPC streams, fragments, heartbeats, reconnects; the only place that knows the wire's types
//!    └ session     pure: credits, turns, duplicates, cancelled items, which models are in which state
//!       └ executor     one OS thread owns the device; a second one reads models
//!          └ backend      echo | synthetic | planned: plans on our own kernels (`cpu`), or on candle | `cuda`
//!             ├ model        one file per architecture: settings in, a plan out
//!             └ ops          a folder each: contract, reference loop, kernels
//!                ├ cpu          instruction sets, vectors, dot products, threads
//!                └ cuda         the driver behind a seam, memory, kernels compiled when first wanted
//! ```
//!
//! Arrows only run down. What all parts speak of (`batch`, `card`, `plan`, `source`) imports none of them.

mod backend;
mod batch;
mod card;
mod cpu;
mod cuda;
mod describe;
mod device;
mod executor;
#[cfg(feature = "gpu-check")]
pub mod gpu_check;
mod gpus;
mod inspect;
mod link;
mod model;
mod monitor;
mod offline;
mod ops;
mod options;
mod plan;
mod run;
mod session;
mod source;

pub use cpu::isa::{CpuIsa, UnknownIsa};
pub use describe::{DescribeError, describe_plan};
pub use gpus::{GpuInfo, NoGpus, gpus};
pub use inspect::{Inspection, inspect};
pub use link::Resolver;
pub use offline::{Offline, OfflineError};
pub use options::{
    Auth, AuthError, Budget, DeviceChoice, Endpoint, EndpointError, GpuChoice, Options, Secret, TlsFiles, UnknownGpu,
};
pub use run::{Exit, Refusal, RunError, run};
pub use source::{ModelSource, SyntheticCurve};
