//! Where workers dial: a Unix socket only this user may open, or a TCP address.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use shoal_proto::link::limits::MESSAGE_BYTES_MAX;
use shoal_proto::link::worker_link_server::WorkerLinkServer;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::metrics::Metrics;
use crate::tls::{H2, Tls};

use super::door::Door;
use super::service::{LinkOptions, LinkService};

/// Room for several batches on their way, so that one never waits for the other side's window.
const WINDOW_BYTES: u32 = 8 << 20;

/// Calls of one connection at once. A worker makes two.
const STREAMS_MAX: u32 = 16;

/// Where workers dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address; port 0 picks a free one.
    Tcp(SocketAddr),
}

impl fmt::Display for LinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// Binds, then serves workers until `stop` is done. Returns the address bound and the future to run. TLS is of TCP alone:
/// who may open a Unix socket is said by its folder.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: &LinkAddress,
    tls: Option<&Tls>,
    metrics: Metrics,
    service: LinkService,
    stop: CancellationToken,
) -> std::io::Result<(LinkAddress, impl Future<Output = Result<(), tonic::transport::Error>> + Send + use<>)> {
    let LinkOptions { strangers_max, hello_time_max, .. } = *service.options();
    let door = Door { acceptor: tls.map(|tls| tls.acceptor(H2)), metrics, strangers_max, hello_time_max };
    let (at, lines) = door.open(address).await?;
    let service = WorkerLinkServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let router = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(service);
    Ok((at, router.serve_with_incoming_shutdown(lines, stop.cancelled_owned())))
}
