//! Metrics and probes over HTTP, on a thread of their own: they answer whatever the rest of the server is busy with.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use crate::driver::Handle;
use crate::lanes::Load;
use crate::metrics::Metrics;
use crate::registry::ModelState;
use crate::rpc::HealthGate;

/// How long a page waits for gauges from a busy driver.
const MEASURE_TIME_MAX: Duration = Duration::from_millis(100);

/// The running admin thread.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

/// A bound port that nobody answers yet.
#[derive(Debug)]
pub struct BoundAdmin {
    socket: TcpListener,
}

#[derive(Clone)]
struct Pages {
    metrics: Metrics,
    health: HealthGate,
    driver: Handle,
    lanes: Load,
}

impl Admin {
    /// Binds; nothing answers yet.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(address: SocketAddr) -> io::Result<BoundAdmin> {
        Ok(BoundAdmin { socket: TcpListener::bind(address)? })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    pub fn stop(self) {
        self.stop.cancel();
        // A panic of that thread has been printed; there is nothing to add.
        let _ = self.thread.join();
    }
}

impl BoundAdmin {
    /// Serves.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn start(self, metrics: Metrics, health: HealthGate, driver: Handle, lanes: Load) -> io::Result<Admin> {
        let socket = self.socket;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let routes = routes(Pages { metrics, health, driver, lanes });
        let serve = async move {
            let socket = tokio::net::TcpListener::from_std(socket)?;
            let server = axum::serve(socket, routes);
            // A scraper that holds its connection open must not hold up the end.
            tokio::select! {
                served = server.into_future() => served,
                () = stopped.cancelled() => Ok(()),
            }
        };
        let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
            if let Err(error) = runtime.block_on(serve) {
                tracing::error!(%error, "metrics and probes have ended");
            }
        })?;
        Ok(Admin { address, stop, thread })
    }
}

fn routes(pages: Pages) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/startupz", get(startupz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(pages)
}

/// As gRPC's `startup`, for probes that cannot ask there.
async fn startupz(State(pages): State<Pages>) -> Response {
    match pages.health.has_started() {
        true => "ok\n".into_response(),
        false => unready(&pages),
    }
}

async fn readyz(State(pages): State<Pages>) -> Response {
    match pages.health.is_ready() {
        true => "ok\n".into_response(),
        false => unready(&pages),
    }
}

fn unready(pages: &Pages) -> Response {
    let line = |(name, state)| match state {
        ModelState::Unloaded => format!("{name}: no worker holds it\n"),
        ModelState::Loading => format!("{name}: loading\n"),
        ModelState::Failed(reason) => format!("{name}: failed: {reason}\n"),
        ModelState::Ready => String::new(),
    };
    let mut page: String = pages.health.unready().into_iter().map(line).collect();
    if page.is_empty() {
        page.push_str("draining\n");
    }
    (StatusCode::SERVICE_UNAVAILABLE, page).into_response()
}

async fn metrics(State(pages): State<Pages>) -> Response {
    const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    pages.driver.measure(MEASURE_TIME_MAX).await;
    pages.metrics.tasks.set(pages.lanes.tasks() as i64);
    pages.metrics.measure_memory();
    match pages.metrics.encode() {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
