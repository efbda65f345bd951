//! What stands at a port: the handshake of a connection, where it speaks TLS, and the judgement of each call.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::access::{Access, Need, Scope};
use crate::call::CallError;
use crate::metrics::Metrics;
use crate::tls::{Acceptor, H2, Peer};

use super::{Line, OpenCalls, Seldom, Stops, farewell, go_away, speaks_tls};

/// At one port. Every call has a clone of it, so that is small.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// As metrics name it.
    port: &'static str,
    acceptor: Option<Acceptor>,
    access: Access,
    metrics: Metrics,
    strays: Seldom,
}

/// What is told of clients that a port does not understand.
pub(super) const TLS_ON_PLAIN: &str = "a client speaks TLS, and this port does not";
const PLAIN_ON_TLS: &str = "a client speaks no TLS, and this port does";

/// What the calls of a connection have in common.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Who is at its other end, if that showed a certificate.
    pub(crate) peer: Option<Peer>,
    pub(crate) calls: OpenCalls,
}

impl Gate {
    /// Of the port that metrics call so: with a handshake where there is an acceptor.
    pub(crate) fn new(port: &'static str, acceptor: Option<Acceptor>, access: Access, metrics: Metrics) -> Self {
        Self(Arc::new(Inner { port, acceptor, access, metrics, strays: Seldom::default() }))
    }

    /// Lets everybody in, unasked.
    pub(crate) fn open(port: &'static str, metrics: Metrics) -> Self {
        Self::new(port, None, Access::default(), metrics)
    }

    /// Judges a call that needs this, by its headers and by the certificate of its connection.
    ///
    /// # Errors
    /// `Unauthenticated`, and `PermissionDenied`.
    pub(crate) fn admit(
        &self,
        need: Option<Need>,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<Scope, CallError> {
        match self.0.access.admit(need, headers, connection.peer.as_ref()) {
            Ok(scope) => {
                connection.calls.let_in();
                Ok(scope)
            }
            Err(denied) => {
                let error = CallError::from(denied);
                self.0.metrics.denied(self.0.port, error.code_name());
                Err(error)
            }
        }
    }

    /// The line; nothing where the handshake fails, takes longer than `time_max`, or the
    /// server drains. Runs in the connection's own task, so that nobody else waits.
    pub(crate) async fn line(&self, stream: TcpStream, time_max: Duration, stops: &Stops) -> Option<Line> {
        let Inner { port, acceptor, metrics, .. } = &*self.0;
        let Some(acceptor) = acceptor else { return Some(Line::plain_at(stream, self.clone())) };
        let peer = stream.peer_addr().ok();
        let handshake = async {
            if speaks_tls(&stream).await? == Some(false) {
                self.tell_of_stray(&stream, PLAIN_ON_TLS);
                let word = match acceptor.protocol() {
                    H2 => go_away(b"this port speaks TLS"),
                    _ => b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\nThis port speaks TLS: use https://\n"
                        .to_vec(),
                };
                farewell(stream, &word).await;
                return Err(io::Error::other("it speaks no TLS"));
            }
            acceptor.current().accept(stream).await
        };
        let shaken = tokio::select! {
            shaken = timeout(time_max, handshake) => shaken,
            () = stops.draining.cancelled() => return None,
        };
        let failure = match shaken {
            Ok(Ok(stream)) => return Some(Line::Tls(Box::new(stream))),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it took longer than {time_max:?}"),
        };
        metrics.handshake_failed(port);
        debug!(port, ?peer, "no TLS handshake: {failure}");
        None
    }

    /// Tells of a client that this port does not understand, of which there may be many.
    pub(super) fn tell_of_stray(&self, stream: &TcpStream, problem: &'static str) {
        // One that is gone already has no address any more.
        if let Ok(peer) = stream.peer_addr()
            && let Some(left_out) = self.0.strays.pass(problem)
        {
            warn!(port = self.0.port, %peer, left_out, "{problem}");
        }
    }
}
