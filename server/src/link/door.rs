//! Connections of workers: accepted, and shaken hands with where the link speaks TLS, each by itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::warn;

use crate::listen::Line;
use crate::metrics::Metrics;
use crate::tls::Acceptor;

use super::listen::LinkAddress;

/// Connections whose handshake is under way at once; more wait to be accepted.
const HANDSHAKES_MAX: usize = 1024;
/// How long a connection may take to its first byte and through its handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// Pause after the system refused a connection, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The first byte of every TLS connection: a record of a handshake. HTTP/2 begins with another.
const TLS_FIRST: u8 = 0x16;

/// Lets connections in.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) acceptor: Option<Acceptor>,
    pub(super) metrics: Metrics,
}

/// What is known of whoever is at the other end, beside what it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkPeer {
    /// SHA-256 of the certificate that it showed, and the link's authority has signed.
    pub(super) certificate: Option<[u8; 32]>,
}

pub(super) type Lines = ReceiverStream<io::Result<Line>>;

impl Door {
    /// Binds, and lets connections in for as long as somebody takes them.
    pub(super) async fn open(self, address: &LinkAddress) -> io::Result<(LinkAddress, Lines)> {
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

    async fn accept_tcp(self, socket: TcpListener, lines: mpsc::Sender<io::Result<Line>>) {
        let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            // Closed by nobody.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = lines.closed() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (door, lines) = (self.clone(), lines.clone());
                    tokio::spawn(async move {
                        let let_in = timeout(HANDSHAKE_TIME_MAX, door.let_in(stream)).await;
                        match let_in.unwrap_or_else(|_| Err(format!("it took longer than {HANDSHAKE_TIME_MAX:?}"))) {
                            // Nobody takes it when the server ends.
                            Ok(line) => drop(lines.send(Ok(line)).await),
                            Err(problem) => {
                                if door.acceptor.is_some() {
                                    door.metrics.handshake_failed("link");
                                }
                                warn!(%peer, "a connection to the worker link was refused: {problem}");
                            }
                        }
                        drop(place);
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
    async fn let_in(&self, stream: TcpStream) -> Result<Line, String> {
        // Small messages must not wait for a full packet. A socket that refuses is about to fail anyway.
        let _ = stream.set_nodelay(true);
        let mut first = [0];
        let speaks_tls = match stream.peek(&mut first).await {
            Ok(0) => return Err("it said nothing".to_owned()),
            Ok(_) => first[0] == TLS_FIRST,
            Err(error) => return Err(error.to_string()),
        };
        match (&self.acceptor, speaks_tls) {
            (None, false) => Ok(Line::Plain(stream)),
            (None, true) => {
                farewell(stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                Err("it speaks TLS, and the link does not: set `link_tls_cert` and `link_tls_key`, or have \
                                 the worker --connect to http://"
                    .to_owned())
            }
            (Some(_), false) => {
                farewell(stream, &go_away(b"this link speaks TLS: --connect to https://")).await;
                Err("it speaks no TLS, and the link does: have the worker --connect to https://".to_owned())
            }
            (Some(acceptor), true) => {
                let shaken = acceptor.current().accept(stream).await;
                shaken.map(|stream| Line::Tls(Box::new(stream))).map_err(|error| format!("no TLS handshake: {error}"))
            }
        }
    }
}

/// Says a last word in plain bytes, from which the other side may see why it was not understood.
async fn farewell(mut stream: TcpStream, word: &[u8]) {
    // What it sent is read first: a connection that is closed over unread bytes is reset, and the word with it.
    let mut heard = [0; 4096];
    let _ = stream.read(&mut heard).await;
    if stream.write_all(word).await.is_ok() && stream.shutdown().await.is_ok() {
        while stream.read(&mut heard).await.is_ok_and(|count| count > 0) {}
    }
}

/// What an HTTP/2 server says that will not speak in the open: empty SETTINGS, then GOAWAY (RFC 9113, 6.5 and 6.8).
fn go_away(why: &[u8]) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const INADEQUATE_SECURITY: u32 = 0xc;
    let length = (8 + why.len()) as u32;
    let mut bytes = SETTINGS.to_vec();
    bytes.extend_from_slice(&length.to_be_bytes()[1..]);
    // The kind, no flags, of the connection; no stream was looked at.
    bytes.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&INADEQUATE_SECURITY.to_be_bytes());
    bytes.extend_from_slice(why);
    bytes
}

async fn accept_unix(socket: UnixListener, lines: mpsc::Sender<io::Result<Line>>) {
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = lines.closed() => return,
        };
        match accepted {
            Ok((stream, _)) => drop(lines.send(Ok(Line::Unix(stream))).await),
            Err(error) => {
                warn!(%error, "a worker's connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Connected for Line {
    type ConnectInfo = LinkPeer;

    fn connect_info(&self) -> LinkPeer {
        LinkPeer { certificate: self.peer().map(|peer| peer.fingerprint) }
    }
}
