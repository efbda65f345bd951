//! Traces: what became of single calls and of the batches they ran in, sent to a collector over OTLP.
//!
//! A span is made when its call or batch has ended, of the instants that are recorded anyway. So nothing is kept for a call
//! that is not shown, and how a call ended can decide whether it is. Whoever knows something of it hands it over as it is;
//! a thread of its own makes spans of that and sends them. Nothing that serves waits for it: what does not fit its
//! queue is dropped and counted.
//!
//! Who knows what: the services open a call's span and end it (`OpenSpan`); the driver tells of queue, batches and
//! workers. Neither names OTLP. What spans there are is in `server/docs/traces.md`.

mod clock;
mod context;
mod export;
mod open;
mod record;
mod resource;
mod rpc;
mod sampling;
mod settings;
mod spans;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Extensions, HeaderMap};
use opentelemetry::trace::{SpanId, TraceId};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

pub use context::{SpanIds, TraceParent};
pub use export::{Exporting, SpanCounts};
pub(crate) use open::{OpenSpan, StreamSpan};
pub use record::{BatchRecord, CallRecord, Link, Note, Ran, RunRecord};
pub(crate) use rpc::{Outcome, Rpc};
pub use sampling::{KeepRule, Kept, Sample};
pub use settings::{OtlpEndpoint, TraceOptions, TraceSettings, options};

use clock::Clock;
use record::Finished;
use sampling::Keeper;

/// Records that wait to be sent. A call that is shown makes two, a batch one.
const QUEUE_MAX: usize = 8192;

/// Hands over what is to be shown, if anything is. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    sample: Sample,
    keeper: Keeper,
    notes: Notes,
    queue: mpsc::Sender<Finished>,
    /// Told when the queue is half full: the exporter looks at it at intervals, so that nobody has to wake it.
    filling: Arc<Notify>,
    clock: Arc<Clock>,
    counts: SpanCounts,
}

/// What the driver left for spans that are still open.
#[derive(Debug, Default)]
struct Notes {
    by_span: Mutex<BTreeMap<[u8; 8], Note>>,
    /// So that calls of which nothing is shown take no lock.
    count: AtomicUsize,
}

/// A call that was drawn when its headers came.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    ids: SpanIds,
    at: Instant,
}

impl Tracer {
    /// Starts sending.
    ///
    /// # Errors
    /// When the system refuses a thread, or the collector's certificates cannot be used.
    pub fn start(options: &TraceOptions, counts: SpanCounts) -> Result<(Self, Exporting), String> {
        let (queue, filled) = mpsc::channel(QUEUE_MAX);
        let filling = Arc::new(Notify::new());
        let clock = Arc::new(Clock::new());
        let exporting = Exporting::start(options, filled, filling.clone(), clock.clone(), counts.clone())?;
        let (sample, keeper, notes) = (options.sample, Keeper::new(options.keep), Notes::default());
        Ok((Self(Some(Arc::new(Inner { sample, keeper, notes, queue, filling, clock, counts }))), exporting))
    }

    /// Whether anything is shown at all.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Looks at the headers of a call that just arrived, and draws it or not.
    pub(crate) fn arrive(&self, headers: &HeaderMap, extensions: &mut Extensions) {
        let Some(inner) = &self.0 else { return };
        let parent = parent(headers);
        let trace = parent.map_or_else(random_trace, |parent| parent.trace);
        if parent.map_or_else(|| inner.sample.draws(trace), |parent| parent.is_sampled()) {
            let ids = inner.ids(trace, parent, true);
            extensions.insert(Arrival { ids, at: Instant::now() });
        }
    }

    /// Opens the span of a call, which [`Self::arrive`] has seen.
    pub(crate) fn open(&self, rpc: &'static Rpc, extensions: &Extensions) -> OpenSpan {
        match &self.0 {
            None => OpenSpan::none(),
            Some(_) => OpenSpan::new(self.clone(), rpc, extensions.get::<Arrival>().copied()),
        }
    }

    /// Whether a call that was not drawn is to be shown for this.
    pub(crate) fn keep(&self, now: Instant, why: Kept) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.keeper.keep(now, why))
    }

    /// Leaves for an open span what is known of its call: it is to be shown.
    pub(crate) fn note(&self, span: SpanId, note: Note) {
        if let Some(inner) = &self.0 {
            let mut notes = inner.notes.lock();
            notes.insert(span.to_bytes(), note);
            inner.notes.count.store(notes.len(), Ordering::Release);
        }
    }

    /// What was left for a span.
    pub(crate) fn take_note(&self, span: SpanId) -> Option<Note> {
        let notes = &self.0.as_ref()?.notes;
        if notes.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut held = notes.lock();
        let note = held.remove(&span.to_bytes());
        notes.count.store(held.len(), Ordering::Release);
        note
    }

    /// Ids for the span of a batch.
    pub(crate) fn batch_ids(&self) -> Link {
        Link::new(random_trace(), random_span())
    }

    /// A call that is shown left the driver.
    pub(crate) fn call(&self, record: CallRecord) {
        self.send(Finished::Call(record));
    }

    /// A batch ended in which a call was that is shown.
    pub(crate) fn batch(&self, record: BatchRecord) {
        self.send(Finished::Batch(record));
    }

    /// Never waits.
    fn send(&self, finished: Finished) {
        let Some(inner) = &self.0 else { return };
        if let Err(refused) = inner.queue.try_send(finished) {
            let (mpsc::error::TrySendError::Full(finished) | mpsc::error::TrySendError::Closed(finished)) = refused;
            inner.counts.dropped.inc_by(finished.spans() as u64);
        }
        if inner.queue.capacity() < QUEUE_MAX / 2 {
            inner.filling.notify_one();
        }
    }
}

impl Inner {
    fn ids(&self, trace: TraceId, parent: Option<TraceParent>, sampled: bool) -> SpanIds {
        let parent = parent.map_or(SpanId::INVALID, |parent| parent.span);
        SpanIds { trace, span: random_span(), parent, sampled, origin: self.clock.origin() }
    }
}

impl Notes {
    /// A poisoned lock means that a panic is already under way; the notes are whole all the same.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<[u8; 8], Note>> {
        self.by_span.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Zero is no id.
fn random_trace() -> TraceId {
    TraceId::from(rand::random::<u128>().max(1))
}

/// Zero is no id.
fn random_span() -> SpanId {
    SpanId::from(rand::random::<u64>().max(1))
}

/// The caller's span, if a call has one. What is not valid is none: tracing must never break a call.
pub(crate) fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    TraceParent::parse(headers.get("traceparent")?.to_str().ok()?)
}
