//! A worker's connection until the worker is known: it has one of few places, and little time. Whoever reaches the port
//! could otherwise hold as many connections as there are file descriptors, of which none is left for workers then.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;
use tracing::warn;

use crate::listen::{Line, Seldom};

/// The place of a connection whose worker is not known. Clones are of the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Place(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Place {
    /// The worker is known, or gone.
    pub(super) fn leave(&self) {
        drop(self.lock().take());
    }

    fn is_left(&self) -> bool {
        self.lock().is_none()
    }

    /// A poisoned lock means that a panic is already under way; what it holds is whole.
    fn lock(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of connections that are refused.
#[derive(Debug, Default)]
pub(super) struct Refusals(Seldom);

impl Refusals {
    /// One from this address, for this reason, of which `detail` may be.
    pub(super) fn tell(&self, peer: SocketAddr, problem: &'static str, detail: &str) {
        if let Some(left_out) = self.0.pass(problem) {
            warn!(%peer, left_out, "a connection to the worker link was refused: {problem}{detail}");
        }
    }
}

/// What is known of whoever is at the other end, beside what it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkPeer {
    /// SHA-256 of the certificate that it showed, and the link's authority has signed.
    pub(super) certificate: Option<[u8; 32]>,
}

/// What the calls of a connection have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct Connection {
    pub(super) peer: LinkPeer,
    /// To be left once the worker is known.
    pub(super) place: Place,
}

/// A worker's connection.
#[derive(Debug)]
pub(super) struct Guest {
    line: Line,
    place: Place,
    /// Until the worker is known.
    unknown: Option<Unknown>,
}

#[derive(Debug)]
struct Unknown {
    time_left: Pin<Box<Sleep>>,
    address: SocketAddr,
    refusals: Arc<Refusals>,
}

impl Guest {
    /// One that was let in from afar, and is to say within this time who it is.
    pub(super) fn unknown(
        line: Line,
        place: OwnedSemaphorePermit,
        address: SocketAddr,
        time_max: Duration,
        refusals: Arc<Refusals>,
    ) -> Self {
        let unknown = Unknown { time_left: Box::pin(sleep(time_max)), address, refusals };
        Self { line, place: Place(Arc::new(Mutex::new(Some(place)))), unknown: Some(unknown) }
    }

    /// One of this user.
    pub(super) fn own(line: Line) -> Self {
        Self { line, place: Place::default(), unknown: None }
    }

    /// Fails once the worker should be known and is not. Asked before each read and each write: a connection always waits
    /// for one of them, and the end of the time wakes it.
    fn in_time(&mut self, context: &mut Context<'_>) -> io::Result<&mut Line> {
        if let Some(unknown) = &mut self.unknown {
            if self.place.is_left() {
                self.unknown = None;
            } else if unknown.time_left.is_elapsed() {
                return Err(io::ErrorKind::TimedOut.into());
            } else if unknown.time_left.as_mut().poll(context).is_ready() {
                unknown.refusals.tell(unknown.address, "it took too long to introduce itself", "");
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(&mut self.line)
    }
}

/// Its streams may outlive it for a moment, and count for nothing then.
impl Drop for Guest {
    fn drop(&mut self) {
        self.place.leave();
    }
}

impl Connected for Guest {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        let certificate = self.line.peer().map(|peer| peer.fingerprint);
        Connection { peer: LinkPeer { certificate }, place: self.place.clone() }
    }
}

impl AsyncRead for Guest {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().in_time(context)?).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().in_time(context)?).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().in_time(context)?).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.line.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().in_time(context)?).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().in_time(context)?).poll_shutdown(context)
    }
}
