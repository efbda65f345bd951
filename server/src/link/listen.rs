//! Where workers dial: a Unix socket only this user may open, or a TCP address.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use shoal_proto::link::limits::MESSAGE_BYTES_MAX;
use shoal_proto::link::worker_link_server::WorkerLinkServer;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::service::LinkService;

/// Room for several batches on their way, so that one never waits for the other side's window.
const WINDOW_BYTES: u32 = 8 << 20;

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

/// Binds, then serves workers until `stop` is done. Returns the address bound and the future to run.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: &LinkAddress,
    service: LinkService,
    stop: CancellationToken,
) -> std::io::Result<(LinkAddress, impl Future<Output = Result<(), tonic::transport::Error>> + Send + use<>)> {
    enum Bound {
        Unix(UnixListener),
        Tcp(TcpListener),
    }
    let (bound, at) = match address {
        LinkAddress::Unix(path) => (Bound::Unix(UnixListener::bind(path)?), address.clone()),
        LinkAddress::Tcp(address) => {
            let listener = TcpListener::bind(address).await?;
            let at = LinkAddress::Tcp(listener.local_addr()?);
            (Bound::Tcp(listener), at)
        }
    };
    let service = WorkerLinkServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let router = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(service);
    let serving = async move {
        match bound {
            Bound::Unix(listener) => {
                router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned()).await
            }
            Bound::Tcp(listener) => {
                router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned()).await
            }
        }
    };
    Ok((at, serving))
}
