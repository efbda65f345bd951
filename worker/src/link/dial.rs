//! From an endpoint to an HTTP/2 connection.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity, Uri};
use tower::service_fn;

use crate::{Endpoint, TlsFiles};

/// A server that does not answer the dial by then is not there.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// What may be under way unacknowledged: enough that a batch of several MiB does not wait for a window.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{flag}: {path} cannot be read", path = path.display())]
    File { flag: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot connect{}", hint(.0))]
    Connect(#[from] tonic::transport::Error),
}

/// Connects once: to this address of those that the endpoint's name stands for, if it is a name.
pub(super) async fn dial(
    endpoint: &Endpoint,
    address: Option<SocketAddr>,
    tls: &TlsFiles,
) -> Result<Channel, DialError> {
    match endpoint {
        Endpoint::Tcp(uri) => {
            let mut to = tuned(tonic::transport::Endpoint::new(uri.clone())?);
            if endpoint.is_tls() {
                to = to.tls_config(config(tls)?)?;
            }
            let Some(address) = address else { return Ok(to.connect().await?) };
            let connector = service_fn(move |_: Uri| async move {
                let stream = timeout(CONNECT_MAX, TcpStream::connect(address)).await??;
                stream.set_nodelay(true)?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            });
            Ok(to.connect_with_connector(connector).await?)
        }
        Endpoint::Unix(path) => {
            // The name is only what HTTP/2 calls the peer; the connector goes to the socket.
            let path = path.clone();
            let connector = service_fn(move |_: Uri| {
                let path = path.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            });
            Ok(tuned(Channel::builder(Uri::from_static("http://shoal"))).connect_with_connector(connector).await?)
        }
    }
}

/// TLS as the files have it now: whoever renews a certificate writes another.
fn config(tls: &TlsFiles) -> Result<ClientTlsConfig, DialError> {
    let mut config = ClientTlsConfig::new().timeout(CONNECT_MAX);
    if let Some(ca) = &tls.ca {
        config = config.ca_certificate(Certificate::from_pem(read("--tls-ca", ca)?));
    }
    if let Some((cert, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(read("--tls-cert", cert)?, read("--tls-key", key)?));
    }
    if let Some(name) = &tls.server_name {
        config = config.domain_name(name.clone());
    }
    Ok(config)
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, DialError> {
    std::fs::read(path).map_err(|source| DialError::File { flag, path: path.to_owned(), source })
}

/// What an error of TLS, deep in its causes, asks to be done.
fn hint(error: &tonic::transport::Error) -> &'static str {
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if text.contains("InvalidContentType") {
            return ": the server speaks no TLS there; its link_tls_cert is not set, or --connect should be http://";
        }
        if text.contains("CertificateRequired") {
            return ": the server asks for a certificate; set --tls-cert and --tls-key";
        }
        if text.contains("UnknownIssuer") {
            return ": the server's certificate is signed by none of --tls-ca";
        }
        if text.contains("NotValidForName") {
            return ": the server's certificate has another name; set --tls-server-name";
        }
        cause = error.source();
    }
    ""
}

fn tuned(endpoint: tonic::transport::Endpoint) -> tonic::transport::Endpoint {
    endpoint
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}
