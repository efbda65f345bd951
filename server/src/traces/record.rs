//! What is known of calls and batches when they have ended, as the places that know it hand it over. Spans are made of
//! it elsewhere, by a thread that serves nobody.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{SpanId, TraceId};
use shoal_scheduler::{Class, CloseReason, Waits};
use tokio::time::Instant;

use super::context::SpanIds;
use super::rpc::{Outcome, Rpc};
use super::sampling::Kept;

/// Something that ended.
#[derive(Debug)]
pub(super) enum Finished {
    Rpc(RpcRecord),
    Call(CallRecord),
    Batch(BatchRecord),
}

/// A client's call, or one of those in its stream, from its headers to its answer.
#[derive(Debug)]
pub(super) struct RpcRecord {
    pub(super) ids: SpanIds,
    pub(super) rpc: &'static Rpc,
    pub(super) state: String,
    pub(super) started: Instant,
    pub(super) ended: Instant,
    pub(super) outcome: Outcome,
    pub(super) note: Option<Note>,
    /// Why it is shown, unless it was drawn.
    pub(super) kept: Option<Kept>,
}

/// What the driver knows of a call, for its span.
#[derive(Clone, Debug)]
pub struct Note {
    pub model: Arc<str>,
    pub class: Class,
    pub rows: u32,
    pub tokens: u64,
    /// The id that log lines have.
    pub request: u64,
    /// It was not answered within its model's objective.
    pub is_late: bool,
    /// Why it is shown, unless it was drawn.
    pub kept: Option<Kept>,
    /// What its caller's `tracestate` was, unless it was drawn: its span has it then.
    pub state: String,
}

/// A call's way through the queue and the workers.
#[derive(Debug)]
pub struct CallRecord {
    pub ids: SpanIds,
    pub state: String,
    pub submitted: Instant,
    /// When its row that waited longest was sent for the last time; or when the call ended, if none was sent.
    pub left_queue: Instant,
    /// What that row waited for.
    pub waits: Waits,
    /// How long that row was with workers that gave no result.
    pub failed: Duration,
    pub runs: Vec<RunRecord>,
}

/// A batch that rows of a call were in.
#[derive(Debug)]
pub struct RunRecord {
    pub worker: Option<Arc<str>>,
    pub sent: Instant,
    pub ended: Instant,
    pub rows: u32,
    pub tokens: u32,
    pub own_rows: u32,
    pub attempt: u16,
    pub close: CloseReason,
    /// Zero where the batch gave no result, or none that this call waited for.
    pub compute: Duration,
    pub link: Option<Link>,
}

/// A span elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    pub trace: [u8; 16],
    pub span: [u8; 8],
}

/// A batch with a call in it that is shown.
#[derive(Debug)]
pub struct BatchRecord {
    pub ids: Link,
    /// The calls in it that are shown.
    pub links: Vec<Link>,
    pub model: Arc<str>,
    pub worker: Option<Arc<str>>,
    pub device: Option<Arc<str>>,
    pub rows: u32,
    pub tokens: u32,
    /// The most rows and tokens that it could have had.
    pub rows_max: u32,
    pub tokens_max: u32,
    pub attempt: u16,
    pub close: CloseReason,
    pub sent: Instant,
    pub ended: Instant,
    /// Nothing where it failed.
    pub ran: Option<Ran>,
    /// Why it failed.
    pub failed: Option<&'static str>,
}

/// What a worker says of a batch that it ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// From its arrival to the start of computing.
    pub waited: Duration,
    pub compute: Duration,
    /// How much later it was done because weights had to come first.
    pub page_in: Duration,
}

impl Link {
    pub(super) fn new(trace: TraceId, span: SpanId) -> Self {
        Self { trace: trace.to_bytes(), span: span.to_bytes() }
    }
}

impl From<SpanIds> for Link {
    fn from(ids: SpanIds) -> Self {
        Self::new(ids.trace, ids.span)
    }
}

impl Finished {
    /// How many spans it comes to.
    pub(super) fn spans(&self) -> usize {
        match self {
            Self::Rpc(_) => 1,
            Self::Call(call) => 1 + call.runs.len(),
            Self::Batch(batch) => 1 + batch.ran.map_or(0, |ran| 1 + usize::from(!ran.page_in.is_zero())),
        }
    }
}
