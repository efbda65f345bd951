//! A tracer whose records nobody sends, for tests of who hands them over.

use std::sync::Arc;

use opentelemetry::trace::{SpanId, TraceId};
use tokio::sync::mpsc;

use super::clock::Clock;
use super::record::{BatchRecord, CallRecord, Finished};
use super::sampling::{KeepRule, Keeper, Sample};
use super::{Inner, Notes, QUEUE_MAX, SpanCounts, SpanIds, Tracer};

/// Draws that part of the calls.
pub(crate) fn unsent(sample: f64) -> (Tracer, Unsent) {
    let (queue, filled) = mpsc::channel(QUEUE_MAX);
    let inner = Inner {
        sample: Sample::try_from(sample).expect("a part"),
        keeper: Keeper::new(KeepRule::default()),
        notes: Notes::default(),
        queue,
        filling: Arc::default(),
        clock: Arc::new(Clock::new()),
        counts: SpanCounts::default(),
    };
    (Tracer(Some(Arc::new(inner))), Unsent(filled))
}

/// What was handed over.
#[derive(Debug)]
pub(crate) struct Unsent(mpsc::Receiver<Finished>);

impl Unsent {
    pub(super) fn next(&mut self) -> Option<Finished> {
        self.0.try_recv().ok()
    }

    /// The next, which is of a call.
    pub(crate) fn call(&mut self) -> CallRecord {
        match self.next() {
            Some(Finished::Call(record)) => record,
            other => panic!("not of a call: {other:?}"),
        }
    }

    /// The next, which is of a batch.
    pub(crate) fn batch(&mut self) -> BatchRecord {
        match self.next() {
            Some(Finished::Batch(record)) => record,
            other => panic!("not of a batch: {other:?}"),
        }
    }

    /// Nothing more was.
    pub(crate) fn is_empty(&mut self) -> bool {
        self.next().is_none()
    }
}

/// The span of a call.
pub(crate) fn ids(span: u64, sampled: bool) -> SpanIds {
    SpanIds {
        trace: TraceId::from(u128::from(span)),
        span: SpanId::from(span),
        parent: SpanId::INVALID,
        sampled,
        origin: 0,
    }
}
