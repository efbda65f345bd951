//! From an endpoint to an HTTP/2 connection.

use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Error, Uri};
use tower::service_fn;

use crate::Endpoint;

/// A server that does not answer the dial by then is not there.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// What may be under way unacknowledged: enough that a batch of several MiB does not wait for a window.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Connects once.
pub(super) async fn dial(endpoint: &Endpoint) -> Result<Channel, Error> {
    match endpoint {
        Endpoint::Tcp(uri) => tuned(tonic::transport::Endpoint::new(uri.clone())?).connect().await,
        Endpoint::Unix(path) => {
            // The name is only what HTTP/2 calls the peer; the connector goes to the socket.
            let path = path.clone();
            let connector = service_fn(move |_: Uri| {
                let path = path.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            });
            tuned(Channel::builder(Uri::from_static("http://shoal"))).connect_with_connector(connector).await
        }
    }
}

fn tuned(endpoint: tonic::transport::Endpoint) -> tonic::transport::Endpoint {
    endpoint
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}
