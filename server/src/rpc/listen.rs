//! Accepting client connections: bounded in number, patient with a full file table, drained on request.
//!
//! Written out rather than left to the gRPC library's own loop, which bounds nothing, cancels calls at their deadline
//! with the wrong status, and waits without end for open streams when it stops.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::body_by::BodyBy;
use super::body_until::BodyUntil;
use super::caller::ClientTimeout;
use super::open_calls::OpenCalls;
use crate::metrics::{Counted, Metrics};

/// Pause after the system refused a connection, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Room for a large call or a few small ones on their way.
const WINDOW_BYTES: u32 = 1 << 20;
/// gRPC's header that says how long the client will wait.
const TIMEOUT_HEADER: &str = "grpc-timeout";
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
    /// How long a new connection may take to its first call; then it is told to go away.
    pub hello_time_max: Duration,
    /// How long a connection without open calls may take to close once it was told to go away.
    pub farewell_time_max: Duration,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            streams_max: 256,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            hello_time_max: Duration::from_secs(10),
            farewell_time_max: Duration::from_secs(1),
        }
    }
}

/// A bound port for clients.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    options: ListenerOptions,
    metrics: Metrics,
}

impl Listener {
    /// Binds; port 0 picks a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr, options: ListenerOptions, metrics: Metrics) -> io::Result<Self> {
        Ok(Self { socket: TcpListener::bind(address).await?, options, metrics })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `draining`, then lets open calls finish for at most `grace`. Calls whose headers arrived before
    /// their connection was told to go away are still answered.
    pub async fn serve(self, routes: Routes, draining: CancellationToken, grace: Duration) {
        let routes = routes.prepare();
        let places = Arc::new(Semaphore::new(self.options.connections_max));
        let connections = TaskTracker::new();
        let cut = CancellationToken::new();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.socket, &places) => accepted,
                () = draining.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer, place)) => {
                    debug!(%peer, "connection accepted");
                    let connection = Connection { stream, place, options: self.options, metrics: self.metrics.clone() };
                    connections.spawn(connection.serve(routes.clone(), draining.clone(), cut.clone()));
                }
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.socket);
        connections.close();
        if timeout(grace, connections.wait()).await.is_err() {
            warn!(open = connections.len(), "connections are still busy after {grace:?}, closing them");
            cut.cancel();
            connections.wait().await;
        }
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    socket: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = socket.accept().await?;
    Ok((stream, peer, place))
}

struct Connection {
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    options: ListenerOptions,
    metrics: Metrics,
}

impl Connection {
    async fn serve(self, routes: Routes, draining: CancellationToken, cut: CancellationToken) {
        // Small answers must not wait for a full packet. A socket that refuses is about to fail anyway.
        let _ = self.stream.set_nodelay(true);
        let calls = OpenCalls::new(self.metrics.streams.clone());
        let _counted = Counted::one(&self.metrics.connections);
        let service = calls.count(routes).map_request(request_body(&draining)).map_request(take_timeout);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.options.streams_max)
            .keep_alive_interval(self.options.keepalive_interval)
            .keep_alive_timeout(self.options.keepalive_timeout)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(4 * WINDOW_BYTES)
            .max_header_list_size(16 << 10);
        let connection = builder.serve_connection(TokioIo::new(self.stream), TowerToHyperService::new(service));
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = to_close(&calls, self.options.hello_time_max, &draining) => {
                // What is in the socket already is still read, a first call included.
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = cut.cancelled() => Ok(()),
                    // A client that does not even answer a ping must not hold up the end.
                    () = calls.none_for(self.options.farewell_time_max) => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            debug!(%error, "connection broke");
        }
        drop(self.place);
    }
}

/// Returns when a connection is to be told to go away: the server drains, or the client came and asked for nothing.
async fn to_close(calls: &OpenCalls, hello_time_max: Duration, draining: &CancellationToken) {
    let silent = async {
        if timeout(hello_time_max, calls.any()).await.is_ok() {
            pending::<()>().await;
        }
    };
    tokio::select! {
        () = silent => {}
        () = draining.cancelled() => {}
    }
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
        let deadline = request.extensions().get::<ClientTimeout>().map(|timeout| timeout.deadline());
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
    let header = request.headers_mut().remove(TIMEOUT_HEADER);
    if let Some(left) = header.as_ref().and_then(parse_timeout) {
        request.extensions_mut().insert(ClientTimeout { arrived: Instant::now(), left });
    }
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

    use super::*;

    const BRIEF: Duration = Duration::from_millis(50);
    const ANSWER_BYTES: usize = 8 << 20;
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A listener that answers every call with [`ANSWER_BYTES`].
    struct Serving {
        address: SocketAddr,
        draining: CancellationToken,
        ended: JoinHandle<()>,
    }

    impl Serving {
        async fn start(options: ListenerOptions) -> Self {
            Self::start_with_grace(options, PATIENCE).await
        }

        async fn start_with_grace(options: ListenerOptions, grace: Duration) -> Self {
            let listener = Listener::bind(([127, 0, 0, 1], 0).into(), options, Metrics::new()).await.expect("port");
            let address = listener.address().expect("address");
            let draining = CancellationToken::new();
            // Of one piece, as the answers of gRPC are.
            let large = || async { Bytes::from(vec![7; ANSWER_BYTES]) };
            let routes = Routes::from(Router::new().route("/large", get(large)));
            let ended = tokio::spawn(listener.serve(routes, draining.clone(), grace));
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
        let serving = Serving::start(ListenerOptions { farewell_time_max: BRIEF, ..Default::default() }).await;
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
        let serving = Serving::start_with_grace(options, BRIEF).await;
        // Never read, so that its connection keeps the only place.
        let answer = serving.client().await.send_request(request()).await.expect("answer");
        serving.stop().await;
        drop(answer);
    }

    #[tokio::test]
    async fn a_call_in_the_socket_when_the_stop_comes_is_answered() {
        let serving = Serving::start(ListenerOptions::default()).await;
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
        let serving = Serving::start(brief).await;
        for said in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let mut stream = serving.connect().await;
            stream.write_all(said).await.expect("write");
            let mut heard = Vec::new();
            // Whether it ends or is reset does not matter.
            let _ = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("it is closed");
        }
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
