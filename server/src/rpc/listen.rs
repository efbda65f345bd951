//! Connections of gRPC clients.
//!
//! Written out rather than left to the gRPC library's own loop, which bounds nothing, cancels calls at their deadline
//! with the wrong status, and waits without end for open streams when it stops.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tower::{Service, ServiceExt as _};

use crate::access::of_grpc;
use crate::lanes::Lanes;
use crate::listen::{self, Connection, Gate, OpenCalls, Patience, Port, Stops, cork};
use crate::metrics::{Counted, Metrics};
use crate::traces::Tracer;

use super::body_by::BodyBy;
use super::body_until::BodyUntil;
use super::caller::{ClientTimeout, TIMEOUT_HEADER};
use super::status::status;
use super::unreadable::explain;

/// Room for a large call or a few small ones on their way.
const WINDOW_BYTES: u32 = 1 << 20;
/// What the paths of reflection's calls begin with, in both versions.
const REFLECTION_PATH: &str = "/grpc.reflection.";

/// Limits on connections.
#[derive(Clone, Copy, Debug)]
pub struct ListenerOptions {
    /// Connections open at once; more wait to be accepted.
    pub connections_max: usize,
    /// Calls of one connection that run at once.
    pub streams_max: u32,
    /// How often a silent connection is asked whether it is alive.
    pub keepalive_interval: Duration,
    /// How long it may take to answer.
    pub keepalive_timeout: Duration,
    /// How long a new connection may take to its first call that is let in; then it is told to go away.
    pub hello_time_max: Duration,
    /// How old a connection may be; then it is told to go away, and its calls are answered.
    pub age_max: Option<Duration>,
    /// How long a connection without open calls may take to close once it was told to go away.
    pub farewell_time_max: Duration,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            streams_max: 4096,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            hello_time_max: Duration::from_secs(10),
            age_max: None,
            farewell_time_max: Duration::from_secs(1),
        }
    }
}

/// A bound port for clients.
#[derive(Debug)]
pub struct Listener {
    port: Port,
    options: ListenerOptions,
    metrics: Metrics,
    gate: Gate,
    tracer: Tracer,
}

impl Listener {
    /// Binds, inside a runtime; port 0 picks a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(address: SocketAddr, options: ListenerOptions, metrics: Metrics) -> io::Result<Self> {
        let gate = Gate::open("grpc", metrics.clone());
        let port = Port::bind(address, options.connections_max)?;
        Ok(Self { port, options, metrics, gate, tracer: Tracer::default() })
    }

    /// With this at the port.
    #[must_use]
    pub(crate) fn behind(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    /// Shows calls by this.
    #[must_use]
    pub fn shown_by(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.port.address()
    }

    /// Serves until `draining`, then lets open calls finish for at most `grace`. Calls whose headers arrived before
    /// their connection was told to go away are still answered.
    pub async fn serve(self, lanes: Lanes, routes: Routes, draining: CancellationToken, grace: Duration) {
        let routes = routes.prepare();
        let Self { options, metrics, gate, tracer, .. } = self;
        let serve = |stream, stops| {
            serve(stream, gate.clone(), routes.clone(), options, metrics.clone(), tracer.clone(), stops)
        };
        self.port.serve(&lanes, serve, draining, grace).await;
    }
}

async fn serve(
    stream: TcpStream,
    gate: Gate,
    routes: Routes,
    options: ListenerOptions,
    metrics: Metrics,
    tracer: Tracer,
    stops: Stops,
) {
    let _counted = Counted::one(&metrics.connections);
    let Some(line) = gate.line(stream, options.hello_time_max, &stops).await else { return };
    let calls = OpenCalls::new(metrics.streams.clone());
    let in_common = Arc::new(Connection { peer: line.peer(), calls: calls.clone() });
    let service = calls.count(guarded(routes, gate, in_common).map_response(explain));
    let service = service
        .map_request(request_body(&stops.draining))
        .map_request(move |request| arrived(&tracer, take_timeout(request)));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.streams_max)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_header_list_size(16 << 10);
    let (stream, cork) = cork(line);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let patience = Patience {
        hello_time_max: options.hello_time_max,
        age_max: options.age_max,
        farewell_time_max: options.farewell_time_max,
    };
    listen::run(connection, &cork, &calls, patience, stops).await;
}

/// Judges each call by its head, before anything reads its body.
fn guarded(
    routes: Routes,
    gate: Gate,
    connection: Arc<Connection>,
) -> impl Service<
    http::Request<Body>,
    Response = http::Response<Body>,
    Error = Infallible,
    Future: Future<Output = Result<http::Response<Body>, Infallible>> + Send,
> + Clone
+ use<> {
    tower::service_fn(move |mut request: http::Request<Body>| {
        let admitted = gate.admit(of_grpc(request.uri().path()), request.headers(), &connection);
        let mut routes = routes.clone();
        async move {
            match admitted {
                Ok(scope) => {
                    request.extensions_mut().insert(scope);
                    routes.call(request).await
                }
                Err(denied) => Ok(status(&denied).into_http()),
            }
        }
    })
}

/// Hands the request's body over, for no longer than its client waits. Reflection's streams ask until their client is
/// done, which may be never: their requests are over when the server drains.
fn request_body(
    draining: &CancellationToken,
) -> impl Fn(http::Request<Incoming>) -> http::Request<Body> + Clone + use<> {
    let draining = draining.clone();
    move |request| {
        let reflection = request.uri().path().starts_with(REFLECTION_PATH);
        let until = reflection.then(|| draining.clone());
        let deadline = request.extensions().get::<ClientTimeout>().map(|timeout| timeout.arrived + timeout.left);
        request.map(|body| match (until, deadline) {
            (Some(until), _) => Body::new(BodyUntil::new(Body::new(body), until)),
            (None, Some(deadline)) => Body::new(BodyBy::new(Body::new(body), deadline)),
            (None, None) => Body::new(body),
        })
    }
}

/// Turns the time-out header into an extension. The core ends a call at its deadline with the right status; with the
/// header in place the library would end it a moment earlier as cancelled.
fn take_timeout<B>(mut request: http::Request<B>) -> http::Request<B> {
    // One that cannot be read stays, and is refused with the caller's other metadata.
    if let Some(left) = request.headers().get(TIMEOUT_HEADER).and_then(parse_timeout) {
        request.headers_mut().remove(TIMEOUT_HEADER);
        request.extensions_mut().insert(ClientTimeout { arrived: Instant::now(), left });
    }
    request
}

/// Its span, if it is drawn, begins here.
fn arrived<B>(tracer: &Tracer, mut request: http::Request<B>) -> http::Request<B> {
    // Of the request's parts two are wanted at once.
    let mut extensions = std::mem::take(request.extensions_mut());
    tracer.arrive(request.headers(), &mut extensions);
    *request.extensions_mut() = extensions;
    request
}

/// `TimeoutValue TimeoutUnit` of the gRPC protocol: at most eight digits and one of H M S m u n.
fn parse_timeout(header: &HeaderValue) -> Option<Duration> {
    let text = header.to_str().ok()?;
    let (value, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if value.is_empty() || value.len() > 8 || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = value.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Empty};
    use hyper::client::conn::http2::{Builder, SendRequest};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::access::{Access, Right};

    const BRIEF: Duration = Duration::from_millis(50);
    const ANSWER_BYTES: usize = 8 << 20;
    const PATIENCE: Duration = Duration::from_secs(60);
    const EMBED: &str = "/shoal.v1.Inference/Embed";
    const TOKEN: &str = "0123456789abcdef0123";

    /// A listener that answers every call with [`ANSWER_BYTES`].
    struct Serving {
        address: SocketAddr,
        draining: CancellationToken,
        ended: JoinHandle<()>,
    }

    impl Serving {
        fn start(options: ListenerOptions) -> Self {
            Self::start_with_grace(options, PATIENCE)
        }

        fn start_with_grace(options: ListenerOptions, grace: Duration) -> Self {
            Self::start_behind(Access::default(), options, grace)
        }

        fn start_behind(access: Access, options: ListenerOptions, grace: Duration) -> Self {
            let gate = Gate::new("grpc", None, access, Metrics::new());
            let listener = Listener::bind(([127, 0, 0, 1], 0).into(), options, Metrics::new()).expect("port");
            let listener = listener.behind(gate);
            let address = listener.address().expect("address");
            let draining = CancellationToken::new();
            // Of one piece, as the answers of gRPC are.
            let large = || async { Bytes::from(vec![7; ANSWER_BYTES]) };
            let routes = Router::new().route("/large", get(large)).route(EMBED, get(|| async { "done" }));
            let routes = Routes::from(routes);
            let ended = tokio::spawn(listener.serve(Lanes::here(), routes, draining.clone(), grace));
            Self { address, draining, ended }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.expect("connection")
        }

        async fn client(&self) -> SendRequest<Empty<Bytes>> {
            let io = TokioIo::new(self.connect().await);
            let handshake = Builder::new(TokioExecutor::new()).initial_stream_window_size(1 << 16).handshake(io);
            let (client, connection) = handshake.await.expect("handshake");
            tokio::spawn(connection);
            client
        }

        async fn stop(self) {
            self.draining.cancel();
            timeout(PATIENCE / 2, self.ended).await.expect("it ends in time").expect("task");
        }
    }

    fn request() -> http::Request<Empty<Bytes>> {
        http::Request::get("http://shoal/large").body(Empty::new()).expect("request")
    }

    #[tokio::test]
    async fn a_stop_waits_for_an_answer_that_is_read_slowly() {
        let serving = Serving::start(ListenerOptions { farewell_time_max: BRIEF, ..Default::default() });
        let answer = serving.client().await.send_request(request()).await.expect("answer");
        // All of it is in the connection's queue by now, or will be; the client's window lets little of it go.
        sleep(BRIEF).await;
        serving.draining.cancel();
        sleep(6 * BRIEF).await;
        let body = answer.into_body().collect().await.expect("the whole body").to_bytes();
        assert_eq!(body.len(), ANSWER_BYTES);
        serving.stop().await;
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_a_place() {
        let options = ListenerOptions { connections_max: 1, ..Default::default() };
        let serving = Serving::start_with_grace(options, BRIEF);
        // Never read, so that its connection keeps the only place.
        let answer = serving.client().await.send_request(request()).await.expect("answer");
        serving.stop().await;
        drop(answer);
    }

    #[tokio::test]
    async fn a_call_in_the_socket_when_the_stop_comes_is_answered() {
        let serving = Serving::start(ListenerOptions::default());
        let mut client = serving.client().await;
        let answer = client.send_request(request());
        // The client's connection writes as soon as this task waits; the server reads once it is told to stop.
        tokio::task::yield_now().await;
        serving.draining.cancel();
        let body = answer.await.expect("answer").into_body().collect().await.expect("body").to_bytes();
        assert_eq!(body.len(), ANSWER_BYTES);
        serving.stop().await;
    }

    #[tokio::test]
    async fn a_client_that_never_asks_loses_its_place() {
        let brief = ListenerOptions { hello_time_max: BRIEF, farewell_time_max: BRIEF, ..Default::default() };
        let serving = Serving::start(brief);
        for said in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let mut stream = serving.connect().await;
            stream.write_all(said).await.expect("write");
            let mut heard = Vec::new();
            // Whether it ends or is reset does not matter.
            let _ = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("it is closed");
        }
        serving.stop().await;
    }

    #[tokio::test]
    async fn a_client_whose_calls_are_all_denied_loses_its_place() {
        let options = ListenerOptions { hello_time_max: 4 * BRIEF, farewell_time_max: BRIEF, ..Default::default() };
        let serving = Serving::start_behind(Access::of_token(TOKEN, &[Right::Infer]), options, PATIENCE);
        let ask = async |client: &mut SendRequest<Empty<Bytes>>, token: &str| {
            let request = http::Request::get(format!("http://shoal{EMBED}"));
            let request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
            let answer = client.send_request(request.body(Empty::new()).expect("request")).await?;
            // Without a status in its head it is the route's.
            Ok::<_, hyper::Error>(answer.headers().get("grpc-status").is_none())
        };
        let (mut stranger, mut known) = (serving.client().await, serving.client().await);
        assert!(ask(&mut known, TOKEN).await.expect("answer"));
        timeout(PATIENCE, async {
            while let Ok(let_in) = ask(&mut stranger, "a-guess-at-the-token").await {
                assert!(!let_in);
                sleep(BRIEF / 10).await;
            }
        })
        .await
        .expect("it is closed");
        assert!(ask(&mut known, TOKEN).await.expect("it stays"));
        serving.stop().await;
    }

    #[tokio::test]
    async fn a_connection_that_is_old_enough_is_told_to_go_away_and_its_calls_are_answered() {
        let aged = ListenerOptions { age_max: Some(BRIEF), farewell_time_max: BRIEF, ..Default::default() };
        let serving = Serving::start(aged);
        let mut client = serving.client().await;
        let answer = client.send_request(request()).await.expect("answer");
        // Its age comes while the answer is on its way.
        sleep(6 * BRIEF).await;
        let body = answer.into_body().collect().await.expect("the whole body").to_bytes();
        assert_eq!(body.len(), ANSWER_BYTES);
        timeout(PATIENCE, async {
            while !client.is_closed() {
                sleep(BRIEF / 10).await;
            }
        })
        .await
        .expect("it goes away");
        serving.client().await.send_request(request()).await.expect("another one is taken");
        serving.stop().await;
    }

    fn parse(text: &str) -> Option<Duration> {
        parse_timeout(&HeaderValue::from_str(text).expect("header"))
    }

    #[test]
    fn reads_every_unit_of_the_protocol() {
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse("4S"), Some(Duration::from_secs(4)));
        assert_eq!(parse("5m"), Some(Duration::from_millis(5)));
        assert_eq!(parse("6u"), Some(Duration::from_micros(6)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
    }

    #[test]
    fn refuses_what_the_protocol_does_not_allow() {
        for wrong in ["", "S", "5", "5x", "-5S", "123456789S", "5 S", "1.5S"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
