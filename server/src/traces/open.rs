//! The span of a call while it is open.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use super::context::SpanIds;
use super::record::{Finished, RpcRecord};
use super::rpc::{Outcome, Rpc};
use super::sampling::Kept;
use super::{Arrival, Tracer, random_span, random_trace};
use crate::call::Trace;

/// Ends as [`Outcome::Gone`] when it is dropped: its client did not wait for the answer. Must outlive the call that it
/// is about, so that nothing is left for it that it does not find.
#[derive(Debug)]
#[must_use]
pub(crate) struct OpenSpan(Option<Open>);

/// The parent of the calls in a stream. It ends by itself, before them or after.
#[derive(Clone, Debug)]
pub(crate) struct StreamSpan(Option<Stream>);

#[derive(Clone, Debug)]
struct Stream {
    tracer: Tracer,
    ids: SpanIds,
    state: String,
    shown: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Open {
    tracer: Tracer,
    rpc: &'static Rpc,
    started: Instant,
    /// Drawn on arrival, or given by [`OpenSpan::enter`].
    ids: Option<SpanIds>,
    state: String,
    /// Of a stream: one of its calls is shown, so that it has to be.
    shown_within: Option<Arc<AtomicBool>>,
    /// Of a call in a stream: that of the stream.
    around: Option<Arc<AtomicBool>>,
}

impl OpenSpan {
    /// Nothing is shown.
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn new(tracer: Tracer, rpc: &'static Rpc, arrival: Option<Arrival>) -> Self {
        let started = arrival.map_or_else(Instant::now, |arrival| arrival.at);
        let ids = arrival.map(|arrival| arrival.ids);
        let state = String::new();
        Self(Some(Open { tracer, rpc, started, ids, state, shown_within: None, around: None }))
    }

    /// It is who the call is, and what workers are told as their parent.
    pub(crate) fn enter(&mut self, trace: &mut Trace) {
        let Some(open) = &mut self.0 else { return };
        let Some(inner) = &open.tracer.0 else { return };
        let ids = *open.ids.get_or_insert_with(|| {
            let id = trace.parent.map_or_else(random_trace, |parent| parent.trace);
            inner.ids(id, trace.parent, false)
        });
        trace.span = Some(ids);
        if ids.sampled {
            open.state.clone_from(&trace.state);
        }
    }

    /// Makes it the span of a stream, which was entered: its calls have spans of their own.
    pub(crate) fn stream(&mut self) -> StreamSpan {
        let Some(open) = &mut self.0 else { return StreamSpan(None) };
        let Some(ids) = open.ids else { return StreamSpan(None) };
        let shown = open.shown_within.get_or_insert_default().clone();
        StreamSpan(Some(Stream { tracer: open.tracer.clone(), ids, state: open.state.clone(), shown }))
    }

    /// The call ended so.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        let Some(mut open) = self.0.take() else { return };
        // A call with wrong headers was not entered.
        let Some(ids) = open.ids else { return };
        let note = open.tracer.take_note(ids.span);
        let ended = Instant::now();
        let is_shown = ids.sampled
            || note.is_some()
            || open.shown_within.as_ref().is_some_and(|shown| shown.load(Ordering::Relaxed));
        let kept = match &note {
            Some(note) => note.kept,
            None if is_shown => None,
            // What ends before the driver hears of it is kept by the same rule.
            None if outcome.is_fault() && open.tracer.keep(ended, Kept::Error) => Some(Kept::Error),
            None => return,
        };
        if let Some(around) = &open.around {
            around.store(true, Ordering::Relaxed);
        }
        open.tracer.send(Finished::Rpc(RpcRecord {
            ids,
            rpc: open.rpc,
            state: mem::take(&mut open.state),
            started: open.started,
            ended,
            outcome,
            note,
            kept,
        }));
    }
}

impl StreamSpan {
    /// Opens and enters the span of a call in this stream.
    pub(crate) fn call(&self, trace: &mut Trace) -> OpenSpan {
        let Some(Stream { tracer, ids, state, shown }) = &self.0 else { return OpenSpan(None) };
        let ids = SpanIds { span: random_span(), parent: ids.span, ..*ids };
        trace.span = Some(ids);
        OpenSpan(Some(Open {
            tracer: tracer.clone(),
            rpc: &Rpc::InStream,
            started: Instant::now(),
            ids: Some(ids),
            state: state.clone(),
            shown_within: None,
            around: Some(shown.clone()),
        }))
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        self.finish(Outcome::Gone);
    }
}
