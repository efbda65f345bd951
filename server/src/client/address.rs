//! Where a server listens, and the way to it.

use std::error::Error as _;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

/// `host:port` of a server's gRPC port, and whether TLS is spoken there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    place: String,
    tls: bool,
}

impl Address {
    /// Where a server listens unless told otherwise.
    pub const DEFAULT: &str = "127.0.0.1:8001";
    const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

    /// Whether TLS is spoken there.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Opens one HTTP/2 connection; with `tls` where it is spoken.
    pub async fn connect(&self, tls: Option<ClientTlsConfig>) -> Result<Channel, ConnectError> {
        let fail = |error: tonic::transport::Error| {
            // The outer error only says "transport error"; the innermost says what happened.
            let mut reason = error.source();
            while let Some(inner) = reason.and_then(|error| error.source()) {
                reason = Some(inner);
            }
            let reason = reason.map_or_else(|| error.to_string(), ToString::to_string);
            ConnectError::NoServer { address: self.clone(), reason: plain(reason) }
        };
        let scheme = if self.tls { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.place)).map_err(fail)?;
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls).map_err(fail)?;
        }
        endpoint.connect_timeout(Self::CONNECT_TIME_MAX).tcp_nodelay(true).connect().await.map_err(fail)
    }
}

/// Reads `host:port`, also behind `http://`, or behind `https://` for TLS.
impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (tls, bare) = match text.strip_prefix("https://") {
            Some(bare) => (true, bare),
            None => (false, text.strip_prefix("http://").unwrap_or(text)),
        };
        let bare = bare.trim_end_matches('/');
        let unreadable = || AddressError::Form { found: text.to_owned() };
        let (host, port) = bare.rsplit_once(':').ok_or_else(unreadable)?;
        let plain = !host.is_empty() && !host.contains(['/', '@', ' ']);
        // An IPv6 address has colons of its own and stands in brackets.
        let closed = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        if plain && closed && port.parse::<u16>().is_ok_and(|port| port > 0) {
            Ok(Self { place: bare.to_owned(), tls })
        } else {
            Err(unreadable())
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { place: address.to_string(), tls: false }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tls {
            f.write_str("https://")?;
        }
        f.write_str(&self.place)
    }
}

/// Why a text is no address.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    #[error("`{found}` is no address; write host:port, as in 127.0.0.1:8001, or https://host:port for TLS")]
    Form { found: String },
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConnectError {
    /// Nobody answers at the address.
    #[error(
        "no server answers at {address} ({reason})\n\
         start one with `shoal serve --model minilm`, or name another with --addr host:port"
    )]
    NoServer {
        /// Where it was looked for.
        address: Address,
        /// What the system said.
        reason: String,
    },
    /// What the client is to show or to trust is not there.
    #[error("--{flag}: {path} {problem}")]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// Where it is.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

impl ConnectError {
    pub(super) fn file(flag: &'static str, path: &Path, problem: &str) -> Self {
        Self::File { flag, path: path.display().to_string(), problem: problem.to_owned() }
    }
}

/// What TLS says of the most common mistakes, in plain words.
fn plain(reason: String) -> String {
    let told = [
        ("InvalidContentType", "it speaks no TLS"),
        ("UnknownIssuer", "none of the authorities in --ca signed its certificate"),
        ("CertificateRequired", "it asks for a certificate: --cert and --key"),
    ];
    let found = told.into_iter().find(|(word, _)| reason.contains(word));
    found.map_or(reason, |(_, told)| told.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Address, AddressError};

    #[test]
    fn reads_hosts_with_ports() {
        for (text, address) in [
            ("127.0.0.1:8001", "127.0.0.1:8001"),
            ("http://localhost:80/", "localhost:80"),
            ("[::1]:8001", "[::1]:8001"),
            ("shoal.example.org:8001", "shoal.example.org:8001"),
            ("https://shoal.example.org:8001/", "https://shoal.example.org:8001"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), address);
        }
        assert_eq!(Address::DEFAULT.parse::<Address>().unwrap().to_string(), Address::DEFAULT);
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "localhost",
            ":8001",
            "a:0",
            "a:99999",
            "a b:1",
            "::1:8001",
            "http://a/b:1",
            "u@h:1",
            "https://a",
            "https://",
        ] {
            assert_eq!(text.parse::<Address>(), Err(AddressError::Form { found: text.into() }), "{text}");
        }
        assert!("https://a:1".parse::<Address>().unwrap().is_tls() && !"a:1".parse::<Address>().unwrap().is_tls());
    }

    #[tokio::test]
    async fn says_how_to_start_a_server_when_there_is_none() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::from(listener.local_addr().unwrap());
        drop(listener);
        let error = address.connect(None).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("no server answers at {address} (")), "{error}");
        assert!(error.contains("refused") && error.contains("shoal serve --model minilm"), "{error}");
    }
}
