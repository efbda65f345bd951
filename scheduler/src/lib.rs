//! Shoal's core: decides which requests run where, in which batches, and when.
//!
//! It is a state machine that is told what happened and says what to do. One [`Scheduler`] owns all state. The driver
//! turns everything that happens into one [`Input`], calls [`Scheduler::handle`] with it and the time, takes every
//! [`Output`] until there is none, and sleeps until the next input or [`Scheduler::poll_timeout`]:
//!
//! ```
//! use std::time::Duration;
//! use shoal_scheduler::{Input, Limits, Scheduler, Timestamp};
//!
//! let mut scheduler = Scheduler::new(Limits::default());
//! let now = Timestamp::from_millis(1);
//! scheduler.handle(now, Input::Drain { deadline: now + Duration::from_secs(10) }); // one mutation …
//! while let Some(output) = scheduler.poll_output() { // … then drain
//!     println!("{output:?}");
//! }
//! assert_eq!(scheduler.poll_timeout(), None); // nothing to come back for
//! ```
//!
//! # What is absent, and why
//!
//! - **A clock.** Time is an argument. The same inputs at the same times give the same outputs, bit for bit, so that a
//!   day of production can be replayed and a thousand days simulated.
//! - **I/O, threads, locks, `std`.** The crate is `no_std` and has no dependency: the compiler proves it.
//! - **Payloads, channels, text.** Requests are ids and costs. The driver keeps the rest by id.
//! - **Hashing, and floats in what is ordered.** Order is decided by integers in ordered maps, the same on every machine.
//!   Requests are found by a hash of their ids; nothing is read in the order of it.
//!   Only the learned cost of a batch (`cost`) computes with floats, by the operations that IEEE 754 fixes to the bit,
//!   and what leaves it is whole nanoseconds. So does [`plan`], the arithmetic of capacity, which decides nothing.
//! - **Errors.** Configuration was checked at the edge; what can go wrong with a request is an [`Output`].
//! - **Logging.** The driver logs inputs and outputs once; [`Scheduler::explain`] answers the rest as data.
//!
//! [`Scheduler`]'s own documentation explains how it is built.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod admission;
mod arbiter;
mod arrivals;
mod batch;
mod bids;
mod cap;
mod company;
mod config;
mod cost;
mod demand;
mod doubt;
mod event;
mod expiries;
mod fleet;
mod hedges;
mod id;
mod inflight;
mod line;
mod model;
mod model_set;
pub mod plan;
mod policy;
mod pools;
mod probes;
mod queue;
mod rate;
mod report;
mod requests;
mod scheduler;
mod shares;
mod table;
mod time;
mod turns;
mod waits;
mod windows;

pub use arbiter::{Action, Arbiter, Launch, Part, SchedulerId, Sharing};
pub use config::{Baseline, BatchCost, LearnedCost, Limits, ModelConfig, OnLate, PolicyConfig, ProbeRow};
pub use cost::Size;
pub use event::{
    BatchFailure, Budget, Class, CloseReason, Cost, Dispatch, DownCause, Explanation, Failure, Group, Input,
    ItemOutcome, ModelState, Output, Probe, QueueLimit, Reject, Request, Turn, TurnKind, Waiting, Wake, Want,
};
pub use id::{Attempt, BatchId, DeviceId, Epoch, GroupId, ModelId, RequestId, Slot, TenantId, WorkerId};
pub use report::{BatchReport, QueueReport, Situation, WorkerReport};
pub use scheduler::{Counts, QueueCounts, Scheduler};
pub use time::Timestamp;
pub use waits::{WaitCause, Waits};
