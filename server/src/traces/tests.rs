//! Spans as they are made, without a collector.

use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use shoal_scheduler::{Class, CloseReason, WaitCause};

use super::record::RpcRecord;
use super::spans::Maker;
use super::testing::unsent;
use super::*;

const ORIGIN: u64 = 1_700_000_000_000_000_000;

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn ids(sampled: bool) -> SpanIds {
    SpanIds {
        trace: TraceId::from(7_u128),
        span: SpanId::from(8_u64),
        parent: SpanId::from(9_u64),
        sampled,
        origin: ORIGIN,
    }
}

fn made(began: Instant, record: Finished) -> Vec<Span> {
    let mut spans = Vec::new();
    let counted = record.spans();
    Maker { began, origin: ORIGIN }.make(record, &mut spans);
    assert_eq!(spans.len(), counted, "what is dropped is counted as what it would have been");
    spans
}

fn value(span: &Span, key: &str) -> String {
    let mut found = span.attributes.iter().filter(|attribute| attribute.key == key);
    let attribute = found.next().unwrap_or_else(|| panic!("no {key} in {:?}", span.attributes));
    assert!(found.next().is_none(), "{key} twice");
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()).expect("a value") {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => panic!("{other:?}"),
    }
}

fn batch(began: Instant, ran: Option<Ran>) -> BatchRecord {
    let link = |span: u64| Link::new(TraceId::from(u128::from(span)), SpanId::from(span));
    BatchRecord {
        ids: link(1),
        links: vec![link(3), link(2), link(3)],
        model: "m".into(),
        worker: Some("local-0".into()),
        device: Some("cpu".into()),
        rows: 3,
        tokens: 50,
        rows_max: 12,
        tokens_max: 100,
        attempt: 2,
        close: CloseReason::Delay,
        sent: began + millis(10),
        ended: began + millis(30),
        ran,
        failed: ran.is_none().then_some("device"),
    }
}

#[test]
fn a_batch_shows_its_calls_once_and_the_workers_time_inside_its_own() {
    let began = Instant::now();
    let ran = Ran { waited: millis(1), compute: millis(5), page_in: millis(4) };
    let spans = made(began, Finished::Batch(batch(began, Some(ran))));
    let [batch, page_in, execute] = spans.as_slice() else { panic!("three: {spans:?}") };
    assert_eq!([&batch.name, &page_in.name, &execute.name], ["batch", "page_in", "execute"]);
    assert_eq!(batch.links.len(), 2);
    assert!(batch.parent_span_id.is_empty());
    for child in [page_in, execute] {
        assert_eq!((&child.trace_id, &child.parent_span_id), (&batch.trace_id, &batch.span_id));
    }
    let at = |count: u64| ORIGIN + count * 1_000_000;
    assert_eq!((batch.start_time_unix_nano, batch.end_time_unix_nano), (at(10), at(30)));
    assert_eq!((page_in.start_time_unix_nano, page_in.end_time_unix_nano), (at(21), at(25)));
    assert_eq!((execute.start_time_unix_nano, execute.end_time_unix_nano), (at(25), at(30)));
    assert_eq!(value(batch, "shoal.batch.fill"), "0.5");
    assert_eq!(value(execute, "shoal.worker.device"), "cpu");
}

#[test]
fn a_worker_that_says_more_than_there_was_stays_inside() {
    let began = Instant::now();
    let ran = Ran { waited: millis(0), compute: millis(500), page_in: millis(500) };
    let spans = made(began, Finished::Batch(batch(began, Some(ran))));
    for child in &spans[1..] {
        assert!(child.start_time_unix_nano >= spans[0].start_time_unix_nano, "{child:?}");
        assert!(child.start_time_unix_nano <= child.end_time_unix_nano, "{child:?}");
    }
}

#[test]
fn a_batch_that_failed_says_why_and_executes_nothing() {
    let began = Instant::now();
    let spans = made(began, Finished::Batch(batch(began, None)));
    let [batch] = spans.as_slice() else { panic!("one: {spans:?}") };
    assert_eq!(value(batch, "error.type"), "device");
    assert_eq!(batch.status.as_ref().expect("a status").code, 2);
}

#[test]
fn a_call_shows_its_wait_and_each_of_its_batches() {
    let began = Instant::now();
    let link = Link::new(TraceId::from(5_u128), SpanId::from(6_u64));
    let run = |sent: u64, ended: u64, link| RunRecord {
        worker: Some("local-0".into()),
        sent: began + millis(sent),
        ended: began + millis(ended),
        rows: 4,
        tokens: 40,
        own_rows: 1,
        attempt: 1,
        close: CloseReason::Drained,
        compute: millis(2),
        link,
    };
    let record = CallRecord {
        ids: ids(true),
        state: "a=1".into(),
        submitted: began + millis(1),
        left_queue: began + millis(3),
        waits: [(WaitCause::WorkersBusy, millis(2))].into_iter().collect(),
        failed: Duration::ZERO,
        runs: vec![run(2, 6, Some(link)), run(3, 9, None)],
    };
    let spans = made(began, Finished::Call(record));
    let [queue, first, second] = spans.as_slice() else { panic!("three: {spans:?}") };
    assert_eq!([&queue.name, &first.name, &second.name], ["queue", "execute", "execute"]);
    for span in &spans {
        assert_eq!(span.trace_id, ids(true).trace.to_bytes());
        assert_eq!(span.parent_span_id, ids(true).span.to_bytes());
        assert_eq!(span.trace_state, "a=1");
    }
    assert_eq!(value(queue, "shoal.wait.workers_busy_seconds"), "0.002");
    assert_eq!(value(first, "shoal.batch.own_rows"), "1");
    assert_eq!((first.links.len(), second.links.len()), (1, 0));
    assert_eq!(first.links[0].span_id, link.span);
}

#[test]
fn what_the_driver_noted_is_on_the_calls_span() {
    let began = Instant::now();
    let note = Note {
        model: "m".into(),
        class: Class::Bulk,
        rows: 2,
        tokens: 9,
        request: 17,
        is_late: true,
        kept: Some(Kept::Late),
        state: "b=2".into(),
    };
    let rpc = |rpc, outcome, note: Option<Note>| {
        let (started, ended) = (began, began + millis(1));
        let kept = note.as_ref().and_then(|note: &Note| note.kept);
        let record = RpcRecord { ids: ids(false), rpc, state: String::new(), started, ended, outcome, note, kept };
        made(began, Finished::Rpc(record)).remove(0)
    };
    static GRPC: Rpc = Rpc::Grpc { service: "shoal.v1.Inference", method: "Embed" };
    static HTTP: Rpc = Rpc::Http { method: "POST", route: "/v1/embeddings" };
    let span = rpc(&GRPC, Outcome::Grpc(0), Some(note));
    assert_eq!((&*span.name, span.kind), ("shoal.v1.Inference/Embed", 2));
    assert_eq!((&*span.trace_state, &*span.parent_span_id), ("b=2", &9_u64.to_be_bytes()[..]));
    let told = ["rpc.system", "rpc.grpc.status_code", "shoal.class", "shoal.request_id", "shoal.late", "shoal.kept"];
    assert_eq!(told.map(|key| value(&span, key)), ["grpc", "0", "bulk", "17", "true", "late"]);
    assert_eq!(span.status.expect("a status").code, 0);
    let failed = rpc(&GRPC, Outcome::Grpc(14), None);
    assert_eq!((&*value(&failed, "error.type"), failed.status.clone().expect("a status").code), ("UNAVAILABLE", 2));
    let refused = rpc(&GRPC, Outcome::Grpc(3), None);
    assert_eq!(value(&refused, "error.type"), "INVALID_ARGUMENT");
    assert_eq!(refused.status.expect("a status").code, 0, "the client is to blame");
    let over_http = rpc(&HTTP, Outcome::Http(503), None);
    assert_eq!((&*over_http.name, &*value(&over_http, "http.response.status_code")), ("POST /v1/embeddings", "503"));
    assert_eq!(over_http.status.expect("a status").code, 2);
}

static RPC: Rpc = Rpc::Grpc { service: "s", method: "m" };

/// A call with this `traceparent`.
fn open(tracer: &Tracer, header: &str) -> (OpenSpan, crate::call::Trace) {
    let (mut headers, mut extensions) = (HeaderMap::new(), Extensions::new());
    if !header.is_empty() {
        headers.insert("traceparent", header.parse().expect("a header"));
    }
    tracer.arrive(&headers, &mut extensions);
    let mut trace = crate::call::Trace { parent: parent(&headers), ..Default::default() };
    let mut span = tracer.open(&RPC, &extensions);
    span.enter(&mut trace);
    (span, trace)
}

#[tokio::test]
async fn callers_decide_for_their_own_traces_and_the_lot_for_others() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-";
    for sample in [0.0, 1.0] {
        let (tracer, _queue) = unsent(sample);
        let sampled = |header: &str| open(&tracer, header).1.span.expect("ids").sampled;
        assert!(sampled(&format!("{PARENT}01")));
        assert!(!sampled(&format!("{PARENT}00")));
        assert_eq!(sampled(""), sample == 1.0);
        assert_eq!(sampled("nonsense"), sample == 1.0);
    }
}

#[tokio::test]
async fn what_workers_are_told_is_the_calls_span_if_that_is_shown() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-";
    let (tracer, _queue) = unsent(0.0);
    let (_span, trace) = open(&tracer, &format!("{PARENT}01"));
    let ids = trace.span.expect("ids");
    assert_eq!(trace.header(), format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", ids.span));
    assert_eq!(ids.parent.to_string(), "b7ad6b7169203331");
    let (_span, trace) = open(&tracer, &format!("{PARENT}00"));
    assert_eq!(trace.header(), format!("{PARENT}00"));
    assert_eq!(open(&tracer, "").1.header(), "");
}

#[tokio::test]
async fn a_call_that_is_not_drawn_leaves_nothing_unless_it_ends_badly() {
    let (tracer, mut queue) = unsent(0.0);
    open(&tracer, "").0.end(Outcome::Grpc(0));
    open(&tracer, "").0.end(Outcome::Grpc(3));
    drop(open(&tracer, ""));
    assert!(queue.is_empty());
    for _ in 0..100 {
        open(&tracer, "").0.end(Outcome::Grpc(13));
    }
    assert_eq!(std::iter::from_fn(|| queue.next()).count(), 10, "as many as a second may have");
}

#[tokio::test]
async fn a_stream_is_shown_if_one_of_its_calls_is() {
    let (tracer, mut queue) = unsent(0.0);
    let (mut stream, trace) = open(&tracer, "");
    let calls = stream.stream();
    calls.call(&mut trace.clone()).end(Outcome::Grpc(0));
    calls.call(&mut trace.clone()).end(Outcome::Grpc(14));
    stream.end(Outcome::Grpc(0));
    let Some(Finished::Rpc(call)) = queue.next() else { panic!("the call") };
    let Some(Finished::Rpc(stream)) = queue.next() else { panic!("the stream") };
    assert_eq!((call.ids.parent, call.ids.trace), (stream.ids.span, stream.ids.trace));
    assert!(queue.is_empty());
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_span() {
    let (tracer, mut queue) = unsent(1.0);
    drop(open(&tracer, ""));
    assert!(matches!(queue.next(), Some(Finished::Rpc(RpcRecord { outcome: Outcome::Gone, .. }))));
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_and_counted() {
    let (tracer, queue) = unsent(1.0);
    for _ in 0..QUEUE_MAX + 7 {
        open(&tracer, "").0.end(Outcome::Grpc(0));
    }
    let counts = &tracer.0.as_ref().expect("on").counts;
    assert_eq!(counts.dropped.get(), 7);
    drop(queue);
    open(&tracer, "").0.end(Outcome::Grpc(0));
    assert_eq!(counts.dropped.get(), 8, "nor does it wait for an exporter that is gone");
}

#[tokio::test]
async fn notes_are_read_once() {
    let (tracer, _queue) = unsent(0.0);
    let span = SpanId::from(5_u64);
    assert!(tracer.take_note(span).is_none());
    let model = "m".into();
    let (class, kept, state) = (Class::Standard, None, String::new());
    tracer.note(span, Note { model, class, rows: 1, tokens: 1, request: 1, is_late: false, kept, state });
    assert!(tracer.take_note(SpanId::from(6_u64)).is_none());
    assert!(tracer.take_note(span).is_some());
    assert!(tracer.take_note(span).is_none());
}
