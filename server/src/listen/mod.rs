//! Accepting client connections, whatever they speak: bounded in number, patient with a full file table, drained on
//! request.
//!
//! Written out rather than left to a library's own loop, which bounds nothing, and waits without end for what is open
//! when it stops.

mod corked;
mod gate;
mod line;
mod open_calls;
mod seldom;
mod stray;

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use tokio::io::AsyncWrite;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use crate::lanes::Lanes;

pub(crate) use corked::{Cork, cork};
pub(crate) use gate::{Connection, Gate};
pub(crate) use line::Line;
pub(crate) use open_calls::OpenCalls;
pub(crate) use seldom::Seldom;
pub(crate) use stray::{farewell, go_away, speaks_tls};

/// Pause after the system refused a connection, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that wait to be accepted, at most.
const BACKLOG_MAX: u32 = 4096;

/// A bound port for clients.
#[derive(Debug)]
pub(crate) struct Port {
    /// Not yet part of any runtime: it is served on a lane, and bound before.
    socket: std::net::TcpListener,
    connections_max: usize,
}

/// How a connection learns that its time is over.
#[derive(Clone, Debug)]
pub(crate) struct Stops {
    /// The server takes no new calls.
    pub(crate) draining: CancellationToken,
    /// Whatever is open is cut.
    cut: CancellationToken,
}

/// How patient a connection is with its client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long a new connection may take to its first call that is let in; then it is told to go away.
    pub(crate) hello_time_max: Duration,
    /// How old it may be; then it is told to go away, so that its client finds servers that came after it.
    pub(crate) age_max: Option<Duration>,
    /// How long a connection without open calls may take to close once it was told to go away.
    pub(crate) farewell_time_max: Duration,
}

impl Port {
    /// Binds, inside a runtime; port 0 picks a free one.
    pub(crate) fn bind(address: SocketAddr, connections_max: usize) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A server may start again while connections of its last life linger.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        // A burst waits here for its places instead of being sent away to try again a second later. The system has a
        // limit of its own.
        let backlog = u32::try_from(connections_max).unwrap_or(u32::MAX).min(BACKLOG_MAX);
        Ok(Self { socket: socket.listen(backlog)?.into_std()?, connections_max })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Hands connections to `serve` until `draining`, then lets them finish for at most `grace`. Connections go to the
    /// lanes in turn and stay there.
    pub(crate) async fn serve<F>(
        self,
        lanes: &Lanes,
        serve: impl Fn(TcpStream, Stops) -> F,
        draining: CancellationToken,
        grace: Duration,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = match TcpListener::from_std(self.socket) {
            Ok(socket) => socket,
            Err(error) => return error!(%error, "clients cannot be listened for"),
        };
        let places = Arc::new(Semaphore::new(self.connections_max));
        let connections = TaskTracker::new();
        let stops = Stops { draining: draining.clone(), cut: CancellationToken::new() };
        loop {
            let accepted = tokio::select! {
                accepted = accept(&socket, &places) => accepted,
                () = draining.cancelled() => break,
            };
            let lane = lanes.next();
            match accepted.and_then(|(stream, peer, place)| Ok((moved(stream, lane)?, peer, place))) {
                Ok((stream, peer, place)) => {
                    debug!(%peer, "connection accepted");
                    // Small answers must not wait for a full packet. A socket that refuses is about to fail anyway.
                    let _ = stream.set_nodelay(true);
                    let served = serve(stream, stops.clone());
                    let served = async move {
                        served.await;
                        drop(place);
                    };
                    connections.spawn_on(served, lane);
                }
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(socket);
        connections.close();
        if timeout(grace, connections.wait()).await.is_err() {
            warn!(open = connections.len(), "connections are still busy after {grace:?}, closing them");
            stops.cut.cancel();
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

/// The same connection, as part of a lane.
fn moved(stream: TcpStream, lane: &Handle) -> io::Result<TcpStream> {
    let stream = stream.into_std()?;
    let _inside = lane.enter();
    TcpStream::from_std(stream)
}

/// Runs a connection whose calls `calls` counts until it ends, or is told to go away and then ends or is cut. Calls
/// whose headers arrived before it was told are still answered.
pub(crate) async fn run<C, S>(connection: C, cork: &Cork<S>, calls: &OpenCalls, patience: Patience, stops: Stops)
where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
    S: AsyncWrite + Unpin,
{
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        // First, so that it has read what it can before it is told to go away.
        biased;
        ended = cork.drive(connection.as_mut()) => ended,
        () = to_close(calls, patience, &stops.draining) => {
            // What is in the socket already is still read, a first call included.
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = cork.drive(connection.as_mut()) => ended,
                () = stops.cut.cancelled() => Ok(()),
                // A client that does not even answer a ping must not hold up the end.
                () = idle(calls, cork, patience.farewell_time_max) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection broke");
    }
}

/// Returns once a connection that was told to go away has had no call for so long, and nothing left to write.
async fn idle<S: AsyncWrite + Unpin>(calls: &OpenCalls, cork: &Cork<S>, quiet: Duration) {
    calls.none_for(quiet).await;
    while !cork.is_empty() {
        calls.none_for(quiet).await;
    }
}

/// Returns when a connection is to be told to go away: the server drains, the client came and asked for nothing that it
/// may have, or it is old enough.
async fn to_close(calls: &OpenCalls, patience: Patience, draining: &CancellationToken) {
    let silent = async {
        if timeout(patience.hello_time_max, calls.any_let_in()).await.is_ok() {
            pending::<()>().await;
        }
    };
    let old = async {
        match patience.age_max {
            // A tenth more or less, so that those that came together do not go together.
            Some(age) => sleep(age.mul_f64(rand::random_range(0.9..1.1))).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = silent => {}
        () = old => {}
        () = draining.cancelled() => {}
    }
}
