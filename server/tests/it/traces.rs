//! Spans as a collector gets them: one in this process, which speaks OTLP and does as it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use shoal_proto::v1 as api;
use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

use crate::minilm;
use crate::oip::texts;
use crate::pki::{Authority, Files};
use crate::process::{PATIENCE, Shoal, wait_for};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// What a collector was sent, and what it answers.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    spans: Vec<Span>,
    resource: BTreeMap<String, String>,
    tokens: Vec<String>,
    messages: usize,
    /// Messages that it will not take.
    refusing: usize,
    /// Takes messages and never answers.
    hangs: bool,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let hangs = {
            let mut state = self.0.lock().expect("the lock");
            state.messages += 1;
            if let Some(token) = request.metadata().get("authorization") {
                state.tokens.push(token.to_str().expect("text").to_owned());
            }
            if state.refusing > 0 {
                state.refusing -= 1;
                return Err(Status::unavailable("not now"));
            }
            state.hangs
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        let mut state = self.0.lock().expect("the lock");
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.expect("a resource").attributes;
            state.resource = attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect();
            state.spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens on a port of its own, on a thread of its own: a test may block.
    fn start() -> (Self, String) {
        let (collector, address) = Self::listening(Server::builder());
        (collector, format!("http://{address}"))
    }

    /// The same, with a certificate.
    fn start_with_tls(files: &Files) -> (Self, String) {
        let read = |path| std::fs::read_to_string(path).expect("a file");
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(read(&files.cert), read(&files.key)));
        let (collector, address) = Self::listening(Server::builder().tls_config(tls).expect("a certificate"));
        (collector, format!("https://{address}"))
    }

    fn listening(mut server: Server) -> (Self, SocketAddr) {
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        let (told, address) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                told.send(listener.local_addr().expect("an address")).expect("a test");
                let incoming = TcpListenerStream::new(listener);
                server.add_service(service).serve_with_incoming(incoming).await.expect("it serves");
            });
        });
        (collector, address.recv().expect("an address"))
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().expect("the lock"))
    }

    /// Its spans once there are `count` of that name.
    fn wait_for(&self, name: &str, count: usize) -> Vec<Span> {
        wait_for(&format!("{count} spans `{name}`"), || {
            self.state(|state| {
                let there = state.spans.iter().filter(|span| span.name == name).count();
                (there >= count).then(|| state.spans.clone())
            })
        })
    }
}

fn text(attribute: &KeyValue) -> String {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()).expect("a value") {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => panic!("{other:?}"),
    }
}

fn value(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    found.map(text).unwrap_or_else(|| panic!("no {key} on {span:?}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The spans of that name.
fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

/// The children of that name, which lie inside their parent.
fn children<'a>(spans: &'a [Span], of: &Span, name: &str) -> Vec<&'a Span> {
    let mut found = named(spans, name);
    found.retain(|span| span.parent_span_id == of.span_id && span.trace_id == of.trace_id);
    for child in &found {
        assert!(of.start_time_unix_nano <= child.start_time_unix_nano, "{child:?} begins before {of:?}");
        assert!(child.start_time_unix_nano <= child.end_time_unix_nano, "{child:?}");
        assert!(child.end_time_unix_nano <= of.end_time_unix_nano, "{child:?} ends after {of:?}");
    }
    found
}

/// A call with this context.
fn traced<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-{PARENT}-{flags}");
    request.metadata_mut().insert("traceparent", parent.parse().expect("ASCII"));
    request.metadata_mut().insert("tracestate", "a=1,b=2".parse().expect("ASCII"));
    request
}

const INFER: &str = "inference.GRPCInferenceService/ModelInfer";

#[tokio::test]
async fn a_call_is_shown_from_its_callers_span_to_the_workers_computing() {
    let (collector, endpoint) = Collector::start();
    // Both calls come before a worker is asked for a batch, so that they share it.
    let args = ["--model", "echo", "--otlp-endpoint", &endpoint, "--trace-sample", "0"];
    let shoal = Shoal::serve_with("dispatch=hold(2)", &args);
    let (mut one, mut other) = (shoal.oip().await, shoal.oip().await);
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_nanos();
    let (shown, unshown) = tokio::join!(
        one.model_infer(traced(crate::oip::floats(&[&[1.0, 2.0]]), "01")),
        other.model_infer(traced(crate::oip::floats(&[&[3.0, 4.0]]), "00")),
    );
    let after = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_nanos();
    shown.expect("an answer");
    unshown.expect("an answer");
    collector.wait_for("batch", 1);
    let spans = collector.wait_for(INFER, 1);

    let [server] = named(&spans, INFER)[..] else { panic!("one call: {spans:#?}") };
    assert_eq!((&*hex(&server.trace_id), &*hex(&server.parent_span_id)), (TRACE, PARENT));
    assert_eq!((&*server.trace_state, server.kind), ("a=1,b=2", 2));
    assert!(before <= server.start_time_unix_nano.into() && u128::from(server.end_time_unix_nano) <= after);
    let told = ["rpc.system", "rpc.service", "rpc.method", "rpc.grpc.status_code", "shoal.model", "shoal.rows"];
    let expected = ["grpc", "inference.GRPCInferenceService", "ModelInfer", "0", "echo", "1"];
    assert_eq!(told.map(|key| value(server, key)), expected);

    let [queue] = children(&spans, server, "queue")[..] else { panic!("one wait: {spans:#?}") };
    assert_eq!(value(queue, "shoal.batch.close_reason"), "drained");
    assert!(value(queue, "shoal.wait.workers_busy_seconds").parse::<f64>().expect("a number") > 0.0);
    let [execute] = children(&spans, server, "execute")[..] else { panic!("one run: {spans:#?}") };
    assert!(execute.start_time_unix_nano >= queue.end_time_unix_nano);
    assert_eq!((&*value(execute, "shoal.batch.rows"), &*value(execute, "shoal.batch.own_rows")), ("2", "1"));

    let [batch] = named(&spans, "batch")[..] else { panic!("one batch: {spans:#?}") };
    let [link] = &execute.links[..] else { panic!("one link: {execute:#?}") };
    assert_eq!((&link.trace_id, &link.span_id), (&batch.trace_id, &batch.span_id));
    let [link] = &batch.links[..] else { panic!("only the call that is shown: {batch:#?}") };
    assert_eq!((&link.trace_id, &link.span_id), (&server.trace_id, &server.span_id));
    assert!(batch.trace_id != server.trace_id && batch.parent_span_id.is_empty());
    assert!(batch.start_time_unix_nano >= server.start_time_unix_nano);
    assert!(batch.end_time_unix_nano <= server.end_time_unix_nano);
    let told = ["shoal.model", "shoal.worker.name", "shoal.batch.rows", "shoal.batch.attempt"];
    assert_eq!(told.map(|key| value(batch, key)), ["echo", "local-0", "2", "1"]);
    assert!(value(batch, "shoal.batch.fill").parse::<f64>().expect("a number") > 0.0);
    let [computing] = children(&spans, batch, "execute")[..] else { panic!("one: {spans:#?}") };
    assert!(value(computing, "shoal.worker.device").contains("cpu"), "{computing:?}");

    assert_eq!(spans.len(), 5, "nothing of the call whose caller does not keep it: {spans:#?}");
    let mut ids: Vec<_> = spans.iter().map(|span| &span.span_id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
    let resource = collector.state(|state| state.resource.clone());
    assert_eq!(resource["service.name"], "shoal");
    assert_eq!(resource["process.pid"], shoal.pid().to_string());
}

#[tokio::test]
async fn calls_over_http_and_in_streams_are_shown_too() {
    let Some(home) = minilm::home() else { return };
    let (collector, endpoint) = Collector::start();
    let args = ["--model", "minilm", "--otlp-endpoint", &endpoint, "--trace-sample", "1"];
    let shoal = Shoal::serve_in(&home, &args);
    let request = |text: &str| minilm::embed(&[text.to_owned()]);
    let calls = ["a", "b", "c"].map(|text| api::EmbedStreamRequest { id: text.into(), request: Some(request(text)) });
    let mut client = shoal.inference().await;
    let answers = client.embed_stream(traced(tokio_stream::iter(calls), "01")).await.expect("a stream").into_inner();
    assert_eq!(answers.collect::<Vec<_>>().await.len(), 3);
    let body = r#"{"model":"minilm","input":"a"}"#;
    for (model, status) in [("minilm", "200"), ("nobody", "404")] {
        let answer = crate::process::post(&shoal.http, "/v1/embeddings", &body.replace("minilm", model));
        assert!(answer.contains(status), "{answer}");
    }
    collector.wait_for("shoal.v1.Inference/EmbedStream", 1);
    let spans = collector.wait_for("POST /v1/embeddings", 2);

    let [stream] = named(&spans, "shoal.v1.Inference/EmbedStream")[..] else { panic!("one stream: {spans:#?}") };
    assert_eq!(hex(&stream.trace_id), TRACE);
    let calls = children(&spans, stream, "call");
    assert_eq!(calls.len(), 3, "{spans:#?}");
    for call in calls {
        assert_eq!(children(&spans, call, "queue").len(), 1);
        assert_eq!(children(&spans, call, "execute").len(), 1);
        assert_eq!((&*value(call, "shoal.model"), &*call.trace_state), ("minilm", "a=1,b=2"));
    }
    let over_http = named(&spans, "POST /v1/embeddings");
    let statuses: Vec<_> = over_http.iter().map(|span| value(span, "http.response.status_code")).collect();
    assert_eq!(statuses, ["200", "404"]);
    assert_eq!(value(over_http[0], "http.route"), "/v1/embeddings");
    assert!(over_http.iter().all(|span| span.parent_span_id.is_empty()));
    assert_eq!(children(&spans, over_http[0], "execute").len(), 1);
}

#[tokio::test]
async fn calls_that_fail_or_are_late_are_shown_whatever_was_drawn() {
    let (collector, endpoint) = Collector::start();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("shoal.toml");
    // A letter takes a millisecond: with the one objective every call is in time however slow the machine is, with the
    // other none.
    let model = |name, slo| format!("[models.{name}]\nsource = \"synthetic:per_token=1ms+faults\"\nslo = \"{slo}\"\n");
    let (easy, hard) = (model("easy", "60s"), model("hard", "20ms"));
    let config =
        format!("otlp_endpoint = \"{endpoint}\"\ntrace_sample = 0.0\ntrace_keep = \"errors,late\"\n{easy}{hard}");
    std::fs::write(&path, config).expect("a file");
    let shoal = Shoal::serve(&["--config", path.to_str().expect("UTF-8")]);
    let mut client = shoal.oip().await;
    client.model_infer(texts("easy", &["a"])).await.expect("an answer in time");
    let late = client.model_infer(traced(texts("hard", &[&"a".repeat(60)]), "00")).await;
    late.expect("an answer, but late");
    let status = client.model_infer(texts("easy", &["!abort"])).await.expect_err("poison");
    assert_eq!(status.code(), Code::Internal);
    let status = client.model_infer(texts("nobody", &["a"])).await.expect_err("no model");
    assert_eq!(status.code(), Code::NotFound);
    let spans = collector.wait_for(INFER, 2);
    collector.wait_for("batch", 2);
    let servers = named(&spans, INFER);
    assert_eq!(servers.len(), 2, "neither what is well nor what the client did wrong: {spans:#?}");
    let [late, failed] = servers[..] else { panic!("two") };
    assert_eq!((&*value(late, "shoal.kept"), &*value(late, "shoal.late")), ("late", "true"));
    // Its caller keeps nothing, but where it belongs is known.
    assert_eq!((&*hex(&late.trace_id), &*hex(&late.parent_span_id), &*late.trace_state), (TRACE, PARENT, "a=1,b=2"));
    let [execute] = children(&spans, late, "execute")[..] else { panic!("one run: {spans:#?}") };
    let [link] = &execute.links[..] else { panic!("a link: {execute:#?}") };
    let batch = named(&spans, "batch").into_iter().find(|batch| batch.span_id == link.span_id).expect("its batch");
    assert_eq!(batch.links[0].span_id, late.span_id);
    assert_eq!((&*value(failed, "shoal.kept"), &*value(failed, "error.type")), ("error", "INTERNAL"));
    assert_eq!(failed.status.as_ref().expect("a status").code, 2);
    let runs = children(&spans, failed, "execute");
    assert!(!runs.is_empty() && runs.iter().all(|run| value(run, "shoal.worker.name") == "local-0"), "{spans:#?}");
    let links: Vec<_> = runs.iter().flat_map(|run| &run.links).collect();
    let broke = named(&spans, "batch").into_iter().find(|batch| links.iter().any(|to| to.span_id == batch.span_id));
    assert_eq!(value(broke.expect("the batch that ended its worker"), "error.type"), "worker_lost");
}

#[tokio::test]
async fn nothing_is_lost_when_the_server_stops_nor_when_the_collector_is_away_for_a_moment() {
    const CALLS: usize = 300;
    let (collector, endpoint) = Collector::start();
    let folder = tempfile::tempdir().expect("folder");
    let headers = folder.path().join("headers");
    std::fs::write(&headers, "authorization: Bearer open sesame\n").expect("a file");
    collector.state(|state| state.refusing = 2);
    let args = ["--model", "echo", "--otlp-endpoint", &endpoint, "--trace-sample", "1"];
    let args = [&args[..], &["--otlp-headers-file", headers.to_str().expect("UTF-8")]].concat();
    let shoal = Shoal::serve(&args);
    let mut client = shoal.oip().await;
    for _ in 0..CALLS / 2 {
        client.model_infer(crate::oip::floats(&[&[1.0]])).await.expect("an answer");
    }
    // Refused twice, and sent again.
    collector.wait_for(INFER, CALLS / 2);
    assert_eq!(shoal.metric("shoal_trace_spans_failed_total"), 0.0);
    assert_eq!(shoal.metric("shoal_trace_spans_dropped_total"), 0.0);
    assert!(shoal.metric("shoal_trace_spans_exported_total") >= (CALLS / 2) as f64);
    assert!(collector.state(|state| state.messages) >= 3);
    for _ in 0..CALLS / 2 {
        client.model_infer(crate::oip::floats(&[&[1.0]])).await.expect("an answer");
    }
    drop(client);
    let (status, log) = shoal.stop();
    assert!(status.success());
    let spans = collector.state(|state| state.spans.clone());
    assert_eq!(named(&spans, INFER).len(), CALLS);
    assert_eq!(named(&spans, "queue").len(), CALLS);
    let links: usize = named(&spans, "batch").iter().map(|batch| batch.links.len()).sum();
    assert_eq!(links, CALLS, "each call is in a batch that says so");
    let said = |what: &str| log.iter().filter(|line| line.contains(what)).count();
    assert_eq!((said("does not take spans"), said("takes spans again")), (1, 1), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("sesame")));
    assert!(collector.state(|state| state.tokens.iter().all(|token| token == "Bearer open sesame")));
}

#[tokio::test]
async fn spans_go_over_tls_to_a_collector_that_the_stated_authority_vouches_for() {
    let folder = tempfile::tempdir().expect("folder");
    let authority = Authority::new();
    let (collector, endpoint) = Collector::start_with_tls(&authority.issue(folder.path(), "collector"));
    let stranger = Authority::new();
    for (vouches, name, is_taken) in [(&stranger, "stranger.crt", false), (&authority, "authority.crt", true)] {
        let ca = vouches.write(folder.path(), name);
        let args = ["--model", "echo", "--otlp-endpoint", &endpoint, "--trace-sample", "1", "--otlp-ca-file"];
        let shoal = Shoal::serve(&[&args[..], &[ca.to_str().expect("UTF-8")]].concat());
        shoal.oip().await.model_infer(crate::oip::floats(&[&[1.0]])).await.expect("an answer");
        let (status, log) = shoal.stop();
        assert!(status.success());
        assert_eq!(log.iter().any(|line| line.contains("invalid peer certificate")), !is_taken, "{log:#?}");
        let spans = collector.state(|state| state.spans.clone());
        assert_eq!(named(&spans, INFER).len(), usize::from(is_taken));
    }
}

#[tokio::test]
async fn a_collector_that_is_not_there_or_never_answers_holds_nobody_up() {
    let (collector, hangs) = Collector::start();
    collector.state(|state| state.hangs = true);
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("http://{}", listener.local_addr().expect("an address"))
    };
    for endpoint in [closed, hangs] {
        let args = ["--model", "echo", "--otlp-endpoint", &endpoint, "--trace-sample", "1"];
        let shoal = Shoal::serve(&args);
        let mut client = shoal.oip().await;
        for _ in 0..100 {
            client.model_infer(crate::oip::floats(&[&[1.0]])).await.expect("an answer");
        }
        drop(client);
        let asked = Instant::now();
        let (status, log) = shoal.stop();
        assert!(status.success());
        assert!(asked.elapsed() < PATIENCE / 4, "a stop is bounded: {:?}", asked.elapsed());
        let complaints = log.iter().filter(|line| line.contains("does not take spans")).count();
        assert_eq!(complaints, 1, "{log:#?}");
        assert!(log.iter().any(|line| line.contains("the last spans")), "{log:#?}");
    }
}
