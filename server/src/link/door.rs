//! Connections of workers: accepted, and shaken hands with where the link speaks TLS, each by itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tracing::warn;

use crate::listen::{Line, farewell, go_away, speaks_tls};
use crate::metrics::Metrics;
use crate::tls::Acceptor;

use super::guest::{Guest, Refusals};
use super::listen::LinkAddress;

/// How long a connection may take to its first byte and through its handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// Pause after the system refused a connection, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Lets connections in.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) acceptor: Option<Acceptor>,
    pub(super) metrics: Metrics,
    /// Connections at once whose worker is not known; more wait to be accepted.
    pub(super) strangers_max: usize,
    /// How long a connection that was let in may take until its worker is known.
    pub(super) hello_time_max: Duration,
}

/// Why a connection is not let in: one of few reasons, and what else there is to it.
type Problem = (&'static str, String);

pub(super) type Guests = ReceiverStream<io::Result<Guest>>;

impl Door {
    /// Binds, and lets connections in for as long as somebody takes them.
    pub(super) async fn open(self, address: &LinkAddress) -> io::Result<(LinkAddress, Guests)> {
        // What was let in and is not taken yet.
        let (lines, taken) = mpsc::channel(16);
        let at = match address {
            LinkAddress::Unix(path) => {
                let socket = UnixListener::bind(path)?;
                tokio::spawn(accept_unix(socket, lines));
                address.clone()
            }
            LinkAddress::Tcp(address) => {
                let socket = TcpListener::bind(address).await?;
                let at = LinkAddress::Tcp(socket.local_addr()?);
                tokio::spawn(self.accept_tcp(socket, lines));
                at
            }
        };
        Ok((at, ReceiverStream::new(taken)))
    }

    async fn accept_tcp(self, socket: TcpListener, lines: mpsc::Sender<io::Result<Guest>>) {
        let places = Arc::new(Semaphore::new(self.strangers_max));
        let refusals = Arc::new(Refusals::default());
        loop {
            // Closed by nobody.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = lines.closed() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (door, lines, refusals) = (self.clone(), lines.clone(), refusals.clone());
                    tokio::spawn(async move {
                        let let_in = timeout(HANDSHAKE_TIME_MAX, door.let_in(stream)).await;
                        let late = |_| Err(("its first byte or its handshake took too long", String::new()));
                        match let_in.unwrap_or_else(late) {
                            Ok(line) => {
                                let guest = Guest::unknown(line, place, peer, door.hello_time_max, refusals);
                                // Nobody takes it when the server ends.
                                drop(lines.send(Ok(guest)).await);
                            }
                            Err((problem, detail)) => {
                                if door.acceptor.is_some() {
                                    door.metrics.handshake_failed("link");
                                }
                                refusals.tell(peer, problem, &detail);
                            }
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "a worker's connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A connection that speaks what this port speaks.
    async fn let_in(&self, stream: TcpStream) -> Result<Line, Problem> {
        // Small messages must not wait for a full packet. A socket that refuses is about to fail anyway.
        let _ = stream.set_nodelay(true);
        let wrong = |problem, detail| Err((problem, detail));
        let speaks_tls = match speaks_tls(&stream).await {
            Ok(None) => return wrong("it said nothing", String::new()),
            Ok(Some(speaks_tls)) => speaks_tls,
            Err(error) => return wrong("it broke", format!(": {error}")),
        };
        match (&self.acceptor, speaks_tls) {
            (None, false) => Ok(Line::plain(stream)),
            (None, true) => {
                farewell(stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                let advice = ": set `link_tls_cert` and `link_tls_key`, or have the worker --connect to http://";
                wrong("it speaks TLS, and the link does not", advice.to_owned())
            }
            (Some(_), false) => {
                farewell(stream, &go_away(b"this link speaks TLS: --connect to https://")).await;
                let advice = ": have the worker --connect to https://";
                wrong("it speaks no TLS, and the link does", advice.to_owned())
            }
            (Some(acceptor), true) => match acceptor.current().accept(stream).await {
                Ok(stream) => Ok(Line::Tls(Box::new(stream))),
                Err(error) => wrong("no TLS handshake", format!(": {error}")),
            },
        }
    }
}

async fn accept_unix(socket: UnixListener, lines: mpsc::Sender<io::Result<Guest>>) {
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = lines.closed() => return,
        };
        match accepted {
            Ok((stream, _)) => drop(lines.send(Ok(Guest::own(Line::Unix(stream)))).await),
            Err(error) => {
                warn!(%error, "a worker's connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
