//! One call in the server's own words: what the front end hands to the driver and what comes back.
//!
//! Nothing here names the wire's types, and nothing here reaches the core: the driver keeps calls by id.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry::trace::TraceId;
use shoal_scheduler::{Class, CloseReason, QueueLimit};
use tokio::time::Instant;

use crate::access::{Denied, Scope};
use crate::explain::{Asked, Explanation};
use crate::traces::{SpanIds, TraceParent};

/// A call, validated and tokenised.
#[derive(Debug)]
pub struct Call {
    /// The model's configured name.
    pub model: Arc<str>,
    /// The model that was asked for, where this one is tried on a part of its calls.
    pub stands_in_for: Option<Arc<str>>,
    /// Who asks, and how.
    pub caller: Caller,
    /// One per row. Never empty.
    pub rows: Vec<Row>,
}

/// Who asks, how urgently, until when.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The account it counts on.
    pub tenant: Arc<str>,
    /// How urgent.
    pub class: Class,
    /// The client's deadline; nothing runs after it.
    pub deadline: Option<Instant>,
    /// W3C trace context, carried to the worker.
    pub trace: Trace,
    /// Whether they want things explained.
    pub explain: Asked,
    /// What there is for them.
    pub scope: Scope,
}

impl Caller {
    /// The same one, for another call of theirs.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { explain: self.explain.anew(), ..self.clone() }
    }
}

/// W3C trace context, and what of the call is shown.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// `traceparent`, if the caller sent one.
    pub parent: Option<TraceParent>,
    /// `tracestate`; empty without one.
    pub state: String,
    /// The call's own span, where this server shows any.
    pub span: Option<SpanIds>,
}

impl Trace {
    /// Whose trace it is part of: its own span where that is shown, else its caller's.
    pub fn as_parent(&self) -> Option<TraceParent> {
        self.span.filter(|span| span.sampled).map(|span| span.as_parent()).or(self.parent)
    }

    /// The same as a header; empty for none.
    pub fn header(&self) -> String {
        self.as_parent().map(|parent| parent.to_string()).unwrap_or_default()
    }

    /// The trace's id as log lines have it; nothing of a call that is in none.
    pub fn id(&self) -> Option<tracing::field::DisplayValue<TraceId>> {
        self.as_parent().map(|parent| tracing::field::display(parent.trace))
    }
}

/// One row of a batch.
#[derive(Clone, Debug)]
pub struct Row {
    /// Values of each input column, in the order of the model card's inputs, little-endian.
    pub columns: Vec<Bytes>,
    /// Tokens it costs; 0 for models without tokens.
    pub tokens: u32,
    /// The text was cut to the model's limit.
    pub truncated: bool,
    /// What the caller asked of the model.
    pub options: RowOptions,
}

/// What a caller may ask of the model for a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowOptions {
    /// Overrides the model's own normalisation.
    pub normalize: Option<bool>,
    /// Keeps only the first so many dimensions; 0 keeps all.
    pub dimensions: u32,
    /// Wants logits, not probabilities.
    pub raw: bool,
    /// Candidates for each mask, [`Self::TOP_K_MAX`] at most; 0 means 5, or all `targets`.
    pub top_k: u32,
    /// The only token ids to score as a mask's candidates; empty means the whole vocabulary.
    pub targets: Arc<[u32]>,
}

impl RowOptions {
    /// The most candidates for each mask.
    pub const TOP_K_MAX: u32 = 1000;
}

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    F32,
    F16,
    Bf16,
    I8,
    I32,
    I64,
    U8,
    U32,
    Bool,
    /// Opaque bytes, such as one text.
    Bytes,
}

impl DataType {
    /// Bytes of an element; opaque bytes are counted one by one.
    pub(crate) fn unit_bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool | Self::Bytes => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::I64 => 8,
        }
    }
}

/// One output of one row.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: Arc<str>,
    pub data_type: DataType,
    /// Without the row dimension.
    pub shape: Vec<i64>,
    /// Little-endian values.
    pub data: Bytes,
}

/// The answer to a call.
#[derive(Debug)]
pub struct Answer {
    /// Who gave it.
    pub model: Arc<str>,
    /// One per row, in order: the outputs in the order of the model card.
    pub rows: Vec<Vec<Tensor>>,
    /// Longest wait from admission to dispatch among the rows.
    pub queue_time: Duration,
    /// Longest compute time among the batches.
    pub compute_time: Duration,
    /// The batches the rows ran in, in order of dispatch.
    pub batches: Vec<BatchUse>,
    /// Why it took as long, for a caller who asked.
    pub explanation: Option<Box<Explanation>>,
}

/// A batch some rows of a call ran in.
#[derive(Clone, Copy, Debug)]
pub struct BatchUse {
    /// Rows of the batch, those of other calls included.
    pub rows: u32,
    /// Tokens of the batch, those of other calls included.
    pub tokens: u32,
    /// Rows of this call.
    pub own_rows: u32,
    /// Why it was closed when it was.
    pub close: CloseReason,
    /// How long it computed.
    pub compute_time: Duration,
    /// How often its rows had been sent to a worker, this time included.
    pub attempt: u16,
}

/// Why a batch was closed when it was, as answers and metrics say it.
pub fn close_name(close: CloseReason) -> &'static str {
    match close {
        CloseReason::Drained => "drained",
        CloseReason::Rows => "rows",
        CloseReason::Tokens => "tokens",
        CloseReason::Bytes => "bytes",
        CloseReason::Preferred => "preferred",
        CloseReason::Delay => "delay",
        CloseReason::Objective => "objective",
        CloseReason::Spread => "spread",
        CloseReason::Late => "late",
        CloseReason::Hedged => "hedged",
        CloseReason::Isolated => "isolated",
    }
}

/// The limit that refused a call, as metrics and error codes say it.
pub fn full_name(limit: QueueLimit) -> &'static str {
    match limit {
        QueueLimit::Model => "model_queue_full",
        QueueLimit::Tenant => "tenant_queue_full",
        QueueLimit::Class => "class_queue_full",
        QueueLimit::Bytes => "queue_bytes_full",
    }
}

/// Why a call has no answer. `rpc::status` maps each to one gRPC status, `http::error` to one of HTTP.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CallError {
    #[error("model `{model}` is not served here{}", DidYouMean(near))]
    UnknownModel { model: String, near: Option<String> },
    #[error("model `{model}` has no version `{version}`, only `{served}`")]
    UnknownVersion { model: String, version: String, served: String },
    #[error("model `{model}` is not ready: {reason}")]
    ModelNotReady { model: String, reason: String },
    /// The caller's input is wrong; `field` is its path in the request.
    #[error("`{field}`: {problem}")]
    InvalidArgument { field: String, problem: String },
    #[error("the deadline passed before an answer was there")]
    DeadlinePassed,
    /// Nobody was asked to try: it takes longer.
    #[error(
        "the deadline is {} away, and one such request takes about {} even alone on the fastest worker",
        brief(*left), brief(*needed)
    )]
    DeadlineTooShort { left: Duration, needed: Duration },
    /// Nothing was run for it: there was no time.
    #[error("workers have too much in hand to answer before the deadline, so it was not tried")]
    DeadlineUnmeetable { retry_after: Duration },
    #[error("{limit} is full", limit = limit_name(*limit))]
    QueueFull { limit: QueueLimit, retry_after: Duration },
    #[error("waited in the queue for {}, the model's limit", humantime::format_duration(*waited))]
    QueueTimeout { waited: Duration, retry_after: Duration },
    /// It could not be on time, and its model sheds what is late.
    #[error("could not be answered in time any more, so it was not tried")]
    Late { retry_after: Duration },
    /// The request has more bytes than one may have.
    #[error("more bytes than `call_bytes_max` allows: {problem}")]
    MessageTooLarge { problem: String },
    /// However empty the queue, it would not take this.
    #[error("`{field}`: {problem}")]
    TooLarge { field: String, problem: String },
    /// The worker could not compute one input.
    #[error("`{field}`: {problem}")]
    Item { field: String, problem: String },
    #[error("`{field}`: this input broke every batch it was in, at last alone")]
    Poison { field: String },
    /// As `Poison`, known from an earlier call.
    #[error(
        "`{field}`: this input broke every batch it was in, at last alone, {} ago; it is not tried again for {}",
        whole_seconds(*held), whole_seconds(*left)
    )]
    Quarantined { field: String, held: Duration, left: Duration },
    #[error("`{field}`: does not fit the device's memory even alone")]
    OutOfMemory { field: String },
    #[error("the worker was lost {attempts} times while it ran this")]
    WorkerLost { attempts: u16 },
    #[error("the server is shutting down")]
    Draining,
    #[error("model `{model}` was taken out of service")]
    ModelRemoved { model: String },
    #[error("{what} is not offered")]
    Unimplemented { what: String },
    /// Nobody knows who calls.
    #[error("{what}")]
    Unauthenticated { what: String },
    #[error("{what}")]
    PermissionDenied { what: String },
    /// A fault of this server.
    #[error("{what}")]
    Internal { what: String },
}

impl CallError {
    /// The name of the gRPC status this becomes, for counting.
    pub fn code_name(&self) -> &'static str {
        match self {
            Self::UnknownModel { .. } | Self::UnknownVersion { .. } => "NOT_FOUND",
            Self::InvalidArgument { .. } | Self::TooLarge { .. } | Self::Item { .. } => "INVALID_ARGUMENT",
            Self::DeadlinePassed | Self::DeadlineTooShort { .. } => "DEADLINE_EXCEEDED",
            Self::DeadlineUnmeetable { .. }
            | Self::QueueFull { .. }
            | Self::QueueTimeout { .. }
            | Self::Late { .. }
            | Self::MessageTooLarge { .. }
            | Self::OutOfMemory { .. } => "RESOURCE_EXHAUSTED",
            Self::ModelNotReady { .. } | Self::WorkerLost { .. } | Self::Draining | Self::ModelRemoved { .. } => {
                "UNAVAILABLE"
            }
            Self::Unimplemented { .. } => "UNIMPLEMENTED",
            Self::Unauthenticated { .. } => "UNAUTHENTICATED",
            Self::PermissionDenied { .. } => "PERMISSION_DENIED",
            Self::Poison { .. } | Self::Quarantined { .. } | Self::Internal { .. } => "INTERNAL",
        }
    }

    /// Whether the server is to blame, and not what it was sent or how much of it.
    pub fn is_fault(&self) -> bool {
        matches!(self.code_name(), "DEADLINE_EXCEEDED" | "UNAVAILABLE" | "UNIMPLEMENTED" | "INTERNAL")
    }

    /// Puts a field's name before an index: inside the server rows are `[3]`, to the caller of Embed `texts[3]`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        if let Some(field) = self.field_mut()
            && (field.is_empty() || field.starts_with('['))
        {
            field.insert_str(0, outer);
        }
        self
    }

    /// The path of the field that it is about.
    pub fn field_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::InvalidArgument { field, .. }
            | Self::TooLarge { field, .. }
            | Self::Item { field, .. }
            | Self::Poison { field }
            | Self::Quarantined { field, .. }
            | Self::OutOfMemory { field } => Some(field),
            _ => None,
        }
    }
}

impl From<Denied> for CallError {
    fn from(denied: Denied) -> Self {
        let what = denied.to_string();
        match denied {
            Denied::Unknown(_) => Self::Unauthenticated { what },
            Denied::Forbidden { .. } => Self::PermissionDenied { what },
        }
    }
}

struct DidYouMean<'a>(&'a Option<String>);

impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(near) => write!(f, "; did you mean `{near}`?"),
            None => Ok(()),
        }
    }
}

/// To the microsecond.
fn brief(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
}

fn whole_seconds(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs()))
}

fn limit_name(limit: QueueLimit) -> &'static str {
    match limit {
        QueueLimit::Model => "the model's queue",
        QueueLimit::Tenant => "the tenant's share of the queue",
        QueueLimit::Class => "the class's share of the queue",
        QueueLimit::Bytes => "the queue's memory",
    }
}
