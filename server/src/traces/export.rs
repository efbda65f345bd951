//! The thread that makes spans and sends them.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use tracing::{info, warn};

use super::clock::Clock;
use super::record::Finished;
use super::resource::resource;
use super::settings::TraceOptions;
use super::spans::Maker;

/// How long a span waits for others, at most.
const INTERVAL: Duration = Duration::from_millis(500);
/// Spans of one message, about: a record is not divided.
const MESSAGE_SPANS: usize = 512;
/// How long the collector may take to take a message.
const SEND_TIME_MAX: Duration = Duration::from_secs(10);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How often a message is sent before its spans are given up.
const ATTEMPTS_MAX: u32 = 5;
/// The first pause after a failure; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// How long a stop waits for what is left to be sent.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);

/// What became of spans.
#[derive(Clone, Debug, Default)]
pub struct SpanCounts {
    /// A collector has them.
    pub exported: Counter,
    /// The queue was full.
    pub dropped: Counter,
    /// The collector did not take them.
    pub failed: Counter,
}

/// The running thread.
#[derive(Debug)]
pub struct Exporting {
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

struct Exporter {
    client: TraceServiceClient<Channel>,
    headers: MetadataMap,
    resource: Resource,
    queue: mpsc::Receiver<Finished>,
    filling: Arc<Notify>,
    clock: Arc<Clock>,
    counts: SpanCounts,
    stop: CancellationToken,
    /// Failures since the collector last took something.
    failures: u32,
    /// Spans lost since.
    lost: u64,
    endpoint: String,
}

impl Exporting {
    pub(super) fn start(
        options: &TraceOptions,
        queue: mpsc::Receiver<Finished>,
        filling: Arc<Notify>,
        clock: Arc<Clock>,
        counts: SpanCounts,
    ) -> Result<Self, String> {
        let endpoint = endpoint(options)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let stop = CancellationToken::new();
        let headers = MetadataMap::from_headers(options.headers.iter().cloned().collect::<HeaderMap>());
        let (resource, name, stopped) = (resource(&options.resource), options.endpoint.clone(), stop.clone());
        let (done, ended) = oneshot::channel();
        let run = move || {
            runtime.block_on(async {
                // Connects when there is something to send, and again whenever the connection was lost.
                let client = TraceServiceClient::new(endpoint.connect_lazy());
                let (failures, lost) = (0, 0);
                let (stop, endpoint) = (stopped, name);
                let exporter = Exporter {
                    client,
                    headers,
                    resource,
                    queue,
                    filling,
                    clock,
                    counts,
                    stop,
                    failures,
                    lost,
                    endpoint,
                };
                exporter.run().await;
            });
            // Looking up the collector's name cannot be broken off, and nobody waits for it any more.
            runtime.shutdown_background();
            let _ = done.send(());
        };
        let thread = std::thread::Builder::new().name("traces".into()).spawn(run).map_err(|error| error.to_string())?;
        Ok(Self { stop, ended, thread })
    }

    /// Sends what is left, within a bound.
    pub async fn stop(self) {
        self.stop.cancel();
        // Its end, or that of a panic, which has been printed.
        let _ = self.ended.await;
        let _ = self.thread.join();
    }
}

impl Exporter {
    async fn run(mut self) {
        loop {
            tokio::select! {
                () = sleep(INTERVAL) => {}
                () = self.filling.notified() => {}
                () = self.stop.cancelled() => break,
            }
            self.clock.set();
            while let Some(spans) = self.next_spans() {
                self.send(spans).await;
                if self.stop.is_cancelled() {
                    break;
                }
            }
        }
        let until = Instant::now() + FLUSH_TIME_MAX;
        while let Some(spans) = self.next_spans() {
            let count = spans.len() as u64;
            match timeout_at(until, self.attempt(&self.message(spans))).await {
                Ok(Ok(answer)) => self.taken(count, answer),
                Ok(Err(status)) => self.gave_up(count, &status),
                Err(_) => self.gave_up(count, &Status::deadline_exceeded("the server is stopping")),
            }
        }
        if self.lost > 0 {
            warn!(endpoint = %self.endpoint, spans = self.lost, "the collector did not take the last spans");
        }
    }

    /// Those that wait, up to one message of them.
    fn next_spans(&mut self) -> Option<Vec<Span>> {
        let maker = Maker::of(&self.clock);
        let mut spans = Vec::new();
        while spans.len() < MESSAGE_SPANS {
            // Never waited for: a queue that is waited at has to wake a thread, which costs the sender more than the rest.
            let Ok(record) = self.queue.try_recv() else { break };
            maker.make(record, &mut spans);
        }
        (!spans.is_empty()).then_some(spans)
    }

    fn message(&self, spans: Vec<Span>) -> ExportTraceServiceRequest {
        let scope = InstrumentationScope {
            name: "shoal".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource = Some(self.resource.clone());
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }],
        }
    }

    /// Sends one message, again if that may help.
    async fn send(&mut self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        let message = self.message(spans);
        for attempt in 1..=ATTEMPTS_MAX {
            let status = match self.attempt(&message).await {
                Ok(answer) => return self.taken(count, answer),
                Err(status) => status,
            };
            let pause = pause_after(&status, self.failures);
            self.failed(&status);
            let Some(pause) = pause.filter(|_| attempt < ATTEMPTS_MAX && !self.stop.is_cancelled()) else {
                return self.gave_up(count, &status);
            };
            tokio::select! {
                () = sleep(pause) => {}
                // Once more at once, for it is the last time.
                () = self.stop.cancelled() => {}
            }
        }
    }

    async fn attempt(&self, message: &ExportTraceServiceRequest) -> Result<ExportTraceServiceResponse, Status> {
        let mut request = Request::new(message.clone());
        *request.metadata_mut() = self.headers.clone();
        let mut client = self.client.clone();
        let stopping = async {
            self.stop.cancelled().await;
            sleep(FLUSH_TIME_MAX).await;
        };
        tokio::select! {
            answer = client.export(request) => answer.map(tonic::Response::into_inner),
            () = sleep(SEND_TIME_MAX) => Err(Status::deadline_exceeded(format!("no answer in {SEND_TIME_MAX:?}"))),
            () = stopping => Err(Status::deadline_exceeded("the server is stopping")),
        }
    }

    fn taken(&mut self, count: u64, answer: ExportTraceServiceResponse) {
        let refused = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
        let refused = u64::try_from(refused).unwrap_or(0).min(count);
        self.counts.exported.inc_by(count - refused);
        self.counts.failed.inc_by(refused);
        if self.failures > 0 {
            info!(endpoint = %self.endpoint, lost = self.lost, "the collector takes spans again");
            (self.failures, self.lost) = (0, 0);
        }
    }

    fn failed(&mut self, status: &Status) {
        // Once, not every time.
        if self.failures == 0 {
            let (code, problem) = (status.code(), problem(status));
            warn!(endpoint = %self.endpoint, ?code, problem, "the collector does not take spans; serving goes on");
        }
        self.failures = self.failures.saturating_add(1);
    }

    fn gave_up(&mut self, count: u64, status: &Status) {
        if self.failures == 0 {
            self.failed(status);
        }
        self.counts.failed.inc_by(count);
        self.lost += count;
    }
}

/// How long to wait before sending again; nothing where that would not help. As OTLP has it.
fn pause_after(status: &Status, failures: u32) -> Option<Duration> {
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let may_help = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::ResourceExhausted => asked.is_some(),
        // What a connection that breaks is to the library.
        Code::Unknown => std::error::Error::source(status).is_some(),
        _ => false,
    };
    let pause = asked.unwrap_or_else(|| PAUSE.saturating_mul(1 << failures.min(8)));
    may_help.then(|| pause.min(PAUSE_MAX))
}

/// The library says "transport error" and no more; what was the matter lies below.
fn problem(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(below) = cause {
        let said = below.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = below.source();
    }
    text
}

fn endpoint(options: &TraceOptions) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(options.endpoint.clone()).map_err(|error| error.to_string())?;
    let agent = concat!("shoal/", env!("CARGO_PKG_VERSION"));
    let endpoint = endpoint.user_agent(agent).map_err(|error| error.to_string())?.connect_timeout(CONNECT_TIME_MAX);
    if endpoint.uri().scheme_str() != Some("https") {
        return Ok(endpoint);
    }
    let tls = match &options.ca {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_webpki_roots(),
    };
    endpoint.tls_config(tls).map_err(|error| format!("otlp_ca_file: {error}"))
}
