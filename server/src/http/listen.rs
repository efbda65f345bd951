//! Connections of HTTP clients: HTTP/1.1, one call at a time, kept open between calls.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::lanes::Lanes;
use crate::listen::{self, Connection, Gate, OpenCalls, Patience, Port, Stops, cork};
use crate::metrics::{Counted, Metrics};

use super::guard::guarded;

/// Bytes of a request's head; what a connection buffers is not much more.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// Limits on connections.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Connections open at once; more wait to be accepted.
    pub connections_max: usize,
    /// How long a new connection may take to its first call that is let in.
    pub hello_time_max: Duration,
    /// How old a connection may be; then it is told to go away, and its calls are answered.
    pub age_max: Option<Duration>,
    /// How long a connection may take from one answer to the end of the next call's headers. Longer than the 60 seconds
    /// after which common load balancers give up an idle connection, so that it is never this side that does.
    pub idle_time_max: Duration,
    /// How long a call's body may take.
    pub body_time_max: Duration,
    /// How long a client may read nothing of its answer, or its machine be silent.
    pub stall_time_max: Duration,
    /// How long a connection without an open call may take to close once it was told to go away.
    pub farewell_time_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            hello_time_max: Duration::from_secs(10),
            age_max: None,
            idle_time_max: Duration::from_secs(75),
            body_time_max: Duration::from_secs(60),
            stall_time_max: Duration::from_secs(60),
            farewell_time_max: Duration::from_secs(1),
        }
    }
}

/// A bound port for HTTP clients.
#[derive(Debug)]
pub struct Listener {
    port: Port,
    options: Options,
    metrics: Metrics,
    gate: Gate,
}

impl Listener {
    /// Binds, inside a runtime; port 0 picks a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(address: SocketAddr, options: Options, metrics: Metrics) -> io::Result<Self> {
        let gate = Gate::open("http", metrics.clone());
        Ok(Self { port: Port::bind(address, options.connections_max)?, options, metrics, gate })
    }

    /// With this at the port.
    #[must_use]
    pub(crate) fn behind(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.port.address()
    }

    /// Serves until `draining`, then lets open calls finish for at most `grace`.
    pub async fn serve(self, lanes: Lanes, routes: Router, draining: CancellationToken, grace: Duration) {
        let Self { options, metrics, gate, .. } = self;
        let routes = guarded(routes, gate.clone());
        let serve = |stream, stops| serve(stream, gate.clone(), routes.clone(), options, metrics.clone(), stops);
        self.port.serve(&lanes, serve, draining, grace).await;
    }
}

async fn serve(stream: TcpStream, gate: Gate, routes: Router, options: Options, metrics: Metrics, stops: Stops) {
    let _counted = Counted::one(&metrics.connections);
    bound_stalls(&stream, options.stall_time_max);
    let Some(line) = gate.line(stream, options.hello_time_max, &stops).await else { return };
    let calls = OpenCalls::new(metrics.streams.clone());
    let in_common = Arc::new(Connection { peer: line.peer(), calls: calls.clone() });
    let with_connection = move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(in_common.clone());
        request
    };
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Runs between calls as well.
        .header_read_timeout(options.idle_time_max)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(2 * HEAD_BYTES_MAX);
    let service = TowerToHyperService::new(calls.count(routes).map_request(with_connection));
    let (stream, cork) = cork(line);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let patience = Patience {
        hello_time_max: options.hello_time_max,
        age_max: options.age_max,
        farewell_time_max: options.farewell_time_max,
    };
    listen::run(connection, &cork, &calls, patience, stops).await;
}

/// HTTP/1 has no ping, so the system watches whether what was written is ever taken.
#[cfg(target_os = "linux")]
fn bound_stalls(stream: &TcpStream, time_max: Duration) {
    let millis = u32::try_from(time_max.as_millis()).unwrap_or(u32::MAX);
    // A socket that refuses is about to fail anyway.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, millis);
}

#[cfg(not(target_os = "linux"))]
fn bound_stalls(_: &TcpStream, _: Duration) {}
