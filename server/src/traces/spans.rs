//! Spans of OTLP, made of what was recorded.
//!
//! ```text
//! shoal.v1.Inference/Embed            RpcRecord
//! ├─ queue                            CallRecord
//! └─ execute ──────link──┐            one for each batch that the call was in
//! batch ◄────────────────┘            BatchRecord: a trace of its own, with links to its calls
//! ├─ page_in
//! └─ execute
//! ```

use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::span::{Link as WireLink, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use shoal_scheduler::{Class, WaitCause};
use tokio::time::Instant;

use super::clock::Clock;
use super::context::SpanIds;
use super::random_span;
use super::record::{BatchRecord, CallRecord, Finished, Link, Note, RpcRecord, RunRecord};
use super::rpc::{Outcome, Rpc};
use crate::call::close_name;
use crate::explain::wait_name;

/// W3C's flag for what is sampled, as spans and links carry it.
const SAMPLED: u32 = 1;

/// Makes spans, with the times of day of one clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maker {
    pub(super) began: Instant,
    /// Unix time at `began`, for batches; calls bring their own.
    pub(super) origin: u64,
}

impl Maker {
    pub(super) fn of(clock: &Clock) -> Self {
        Self { began: clock.began, origin: clock.origin() }
    }

    /// Puts the spans of a record at the end of `spans`.
    pub(super) fn make(self, record: Finished, spans: &mut Vec<Span>) {
        match record {
            Finished::Rpc(record) => spans.push(Self { origin: record.ids.origin, ..self }.rpc(record)),
            Finished::Call(record) => Self { origin: record.ids.origin, ..self }.call(&record, spans),
            Finished::Batch(record) => self.batch(record, spans),
        }
    }

    fn rpc(self, record: RpcRecord) -> Span {
        let RpcRecord { ids, rpc, state, started, ended, outcome, note, kept } = record;
        let mut attributes = Vec::with_capacity(12);
        let name = match rpc {
            Rpc::Grpc { service, method } => {
                attributes.extend([
                    text("rpc.system", "grpc"),
                    text("rpc.service", *service),
                    text("rpc.method", *method),
                ]);
                format!("{service}/{method}")
            }
            Rpc::Http { method, route } => {
                attributes.extend([text("http.request.method", *method), text("http.route", *route)]);
                format!("{method} {route}")
            }
            Rpc::InStream => "call".to_owned(),
        };
        match outcome {
            Outcome::Http(status) => attributes.push(number("http.response.status_code", status.into())),
            Outcome::Gone if matches!(rpc, Rpc::Http { .. }) => {}
            _ => attributes.extend(outcome.grpc_code().map(|code| number("rpc.grpc.status_code", code.into()))),
        }
        attributes.extend(outcome.error_type().map(|error| text("error.type", error)));
        attributes.extend(kept.map(|why| text("shoal.kept", why.name())));
        let mut state = state;
        if let Some(note) = note {
            noted(&note, &mut attributes);
            if state.is_empty() {
                state = note.state;
            }
        }
        let kind = if matches!(rpc, Rpc::InStream) { SpanKind::Internal } else { SpanKind::Server };
        Span {
            span_id: ids.span.to_bytes().to_vec(),
            parent_span_id: id_or_none(ids.parent.to_bytes()),
            kind: kind.into(),
            status: Some(status(outcome.is_fault(), outcome.error_type())),
            ..self.span(name, ids.trace.to_bytes(), state, started, ended, attributes)
        }
    }

    fn call(self, record: &CallRecord, spans: &mut Vec<Span>) {
        let CallRecord { ids, state, submitted, left_queue, waits, failed, runs } = record;
        let mut attributes: Vec<_> = WaitCause::ALL
            .into_iter()
            .filter(|cause| !waits.of(*cause).is_zero())
            .map(|cause| seconds(&format!("shoal.wait.{}", wait_name(cause)), waits.of(cause)))
            .collect();
        if !failed.is_zero() {
            attributes.push(seconds("shoal.wait.failed_attempts", *failed));
        }
        attributes.extend(runs.last().map(|run| text("shoal.batch.close_reason", close_name(run.close))));
        spans.push(self.child(ids, state, "queue", *submitted, *left_queue, attributes));
        spans.extend(runs.iter().map(|run| self.run(ids, state, run)));
    }

    fn run(self, ids: &SpanIds, state: &str, run: &RunRecord) -> Span {
        let mut attributes = vec![
            number("shoal.batch.rows", run.rows.into()),
            number("shoal.batch.own_rows", run.own_rows.into()),
            number("shoal.batch.tokens", run.tokens.into()),
            number("shoal.batch.attempt", run.attempt.into()),
            text("shoal.batch.close_reason", close_name(run.close)),
        ];
        attributes.extend(run.worker.as_deref().map(|worker| text("shoal.worker.name", worker)));
        if !run.compute.is_zero() {
            attributes.push(seconds("shoal.worker.compute", run.compute));
        }
        let mut span = self.child(ids, state, "execute", run.sent, run.ended, attributes);
        span.links = run.link.iter().map(link).collect();
        span
    }

    fn batch(self, record: BatchRecord, spans: &mut Vec<Span>) {
        let BatchRecord { ids, mut links, model, worker, device, sent, ended, ran, failed, .. } = record;
        let part = |of: u32, max: u32| if max == 0 { 0.0 } else { f64::from(of) / f64::from(max) };
        let fill = part(record.rows, record.rows_max).max(part(record.tokens, record.tokens_max));
        let mut attributes = vec![
            text("shoal.model", &*model),
            number("shoal.batch.rows", record.rows.into()),
            number("shoal.batch.tokens", record.tokens.into()),
            real("shoal.batch.fill", fill),
            number("shoal.batch.attempt", record.attempt.into()),
            text("shoal.batch.close_reason", close_name(record.close)),
        ];
        let on: Vec<_> = [("shoal.worker.name", worker), ("shoal.worker.device", device)]
            .into_iter()
            .filter_map(|(key, value)| Some(text(key, &*value?)))
            .collect();
        attributes.extend(on.iter().cloned());
        attributes.extend(failed.map(|why| text("error.type", why)));
        attributes.extend(ran.map(|ran| seconds("shoal.worker.waited", ran.waited)));
        links.sort_unstable();
        links.dedup();
        let mut batch = self.span("batch".to_owned(), ids.trace, String::new(), sent, ended, attributes);
        batch.span_id = ids.span.to_vec();
        batch.links = links.iter().map(link).collect();
        batch.status = Some(status(failed.is_some(), failed.map(str::to_owned)));
        spans.push(batch);
        let Some(ran) = ran else { return };
        // The worker says how long; that it ended when this server heard so is nearly true, and the way back is short.
        let earlier = |at: Instant, by: Duration| at.checked_sub(by).unwrap_or(sent).max(sent);
        let began = earlier(ended, ran.compute);
        let mut within = |name: &str, from, to, mut attributes: Vec<KeyValue>| {
            attributes.extend(on.iter().cloned());
            let mut span = self.span(name.to_owned(), ids.trace, String::new(), from, to, attributes);
            span.parent_span_id = ids.span.to_vec();
            spans.push(span);
        };
        if !ran.page_in.is_zero() {
            within("page_in", earlier(began, ran.page_in), began, Vec::new());
        }
        within("execute", began, ended, vec![seconds("shoal.worker.compute", ran.compute)]);
    }

    fn child(
        self,
        ids: &SpanIds,
        state: &str,
        name: &str,
        from: Instant,
        to: Instant,
        attributes: Vec<KeyValue>,
    ) -> Span {
        let mut span = self.span(name.to_owned(), ids.trace.to_bytes(), state.to_owned(), from, to, attributes);
        span.parent_span_id = ids.span.to_bytes().to_vec();
        span
    }

    /// A span with a new id and without a parent.
    fn span(
        self,
        name: String,
        trace: [u8; 16],
        trace_state: String,
        from: Instant,
        to: Instant,
        attributes: Vec<KeyValue>,
    ) -> Span {
        Span {
            trace_id: trace.to_vec(),
            span_id: random_span().to_bytes().to_vec(),
            trace_state,
            name,
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: self.unix(from),
            end_time_unix_nano: self.unix(to),
            attributes,
            flags: SAMPLED,
            ..Span::default()
        }
    }

    fn unix(self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began);
        self.origin.saturating_add(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

fn noted(note: &Note, attributes: &mut Vec<KeyValue>) {
    let class = match note.class {
        Class::Interactive => "interactive",
        Class::Standard => "standard",
        Class::Bulk => "bulk",
    };
    attributes.extend([
        text("shoal.model", &*note.model),
        text("shoal.class", class),
        number("shoal.rows", note.rows.into()),
        number("shoal.tokens", i64::try_from(note.tokens).unwrap_or(i64::MAX)),
        number("shoal.request_id", i64::try_from(note.request).unwrap_or(i64::MAX)),
        flag("shoal.late", note.is_late),
    ]);
}

fn status(is_error: bool, why: Option<String>) -> Status {
    match is_error {
        true => Status { code: StatusCode::Error.into(), message: why.unwrap_or_default() },
        false => Status::default(),
    }
}

fn link(to: &Link) -> WireLink {
    WireLink { trace_id: to.trace.to_vec(), span_id: to.span.to_vec(), flags: SAMPLED, ..WireLink::default() }
}

/// On the wire no parent is no bytes.
fn id_or_none(id: [u8; 8]) -> Vec<u8> {
    if id == [0; 8] { Vec::new() } else { id.to_vec() }
}

pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub(super) fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn real(key: &str, value: f64) -> KeyValue {
    attribute(key, Value::DoubleValue(value))
}

fn flag(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}

/// Under a name that says the unit.
fn seconds(key: &str, value: Duration) -> KeyValue {
    real(&format!("{key}_seconds"), value.as_secs_f64())
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
