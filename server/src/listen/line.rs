//! What the bytes of a connection go over.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::tls::Peer;

use super::Gate;
use super::gate::TLS_ON_PLAIN;
use super::stray::TLS_FIRST;

/// A connection to speak on.
#[derive(Debug)]
pub(crate) enum Line {
    Plain(Plain),
    Unix(UnixStream),
    /// Boxed, as it is ten times as large.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What is not encrypted.
#[derive(Debug)]
pub(crate) struct Plain {
    stream: TcpStream,
    /// Hears of a client that speaks TLS. Until the first byte: nobody waits for that here, as those do who shake hands.
    unheard: Option<Gate>,
}

impl Plain {
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(gate) = self.unheard.take()
            && buffer.filled().get(before) == Some(&TLS_FIRST)
        {
            gate.tell_of_stray(&self.stream, TLS_ON_PLAIN);
        }
        Poll::Ready(Ok(()))
    }
}

impl Line {
    pub(crate) fn plain(stream: TcpStream) -> Self {
        Self::Plain(Plain { stream, unheard: None })
    }

    /// Tells the gate of a client that speaks TLS on it.
    pub(super) fn plain_at(stream: TcpStream, gate: Gate) -> Self {
        Self::Plain(Plain { stream, unheard: Some(gate) })
    }

    /// Who is at the other end, if that showed a certificate.
    pub(crate) fn peer(&self) -> Option<Peer> {
        let Self::Tls(stream) = self else { return None };
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        shown.map(Peer::of)
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => plain.poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(&mut plain.stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(&mut plain.stream).poll_write_vectored(context, parts),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(&mut plain.stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(&mut plain.stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
