//! Where a server listens, and the way to it.

use std::error::Error as _;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// `host:port` of a server's gRPC port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// Where a server listens unless told otherwise.
    pub const DEFAULT: &str = "127.0.0.1:8001";
    const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

    /// Opens one HTTP/2 connection.
    pub async fn connect(&self) -> Result<Channel, ConnectError> {
        let fail = |error: tonic::transport::Error| {
            // The outer error only says "transport error"; the innermost says what happened.
            let mut reason = error.source();
            while let Some(inner) = reason.and_then(|error| error.source()) {
                reason = Some(inner);
            }
            let reason = reason.map_or_else(|| error.to_string(), ToString::to_string);
            ConnectError { address: self.clone(), reason }
        };
        let endpoint = Endpoint::from_shared(format!("http://{self}")).map_err(fail)?;
        endpoint.connect_timeout(Self::CONNECT_TIME_MAX).tcp_nodelay(true).connect().await.map_err(fail)
    }
}

/// Reads `host:port`, also behind `http://`.
impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.starts_with("https://") {
            return Err(AddressError::Tls);
        }
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let unreadable = || AddressError::Form { found: text.to_owned() };
        let (host, port) = bare.rsplit_once(':').ok_or_else(unreadable)?;
        let plain = !host.is_empty() && !host.contains(['/', '@', ' ']);
        // An IPv6 address has colons of its own and stands in brackets.
        let closed = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        if plain && closed && port.parse::<u16>().is_ok_and(|port| port > 0) {
            Ok(Self(bare.to_owned()))
        } else {
            Err(unreadable())
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no address.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    #[error("`{found}` is no address; write host:port, as in 127.0.0.1:8001")]
    Form { found: String },
    #[error("TLS is not spoken yet; write host:port")]
    Tls,
}

/// Nobody answers at the address.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "no server answers at {address} ({reason})\n\
     start one with `shoal serve --model minilm`, or name another with --addr host:port"
)]
pub struct ConnectError {
    /// Where it was looked for.
    pub address: Address,
    /// What the system said.
    pub reason: String,
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
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), address);
        }
        assert_eq!(Address::DEFAULT.parse::<Address>().unwrap().to_string(), Address::DEFAULT);
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "localhost", ":8001", "a:0", "a:99999", "a b:1", "::1:8001", "http://a/b:1", "u@h:1"] {
            assert_eq!(text.parse::<Address>(), Err(AddressError::Form { found: text.into() }), "{text}");
        }
        assert_eq!("https://a:1".parse::<Address>(), Err(AddressError::Tls));
    }

    #[tokio::test]
    async fn says_how_to_start_a_server_when_there_is_none() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::from(listener.local_addr().unwrap());
        drop(listener);
        let error = address.connect().await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("no server answers at {address} (")), "{error}");
        assert!(error.contains("refused") && error.contains("shoal serve --model minilm"), "{error}");
    }
}
