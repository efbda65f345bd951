//! Why a server does not start, is not ready, or is of no use any more.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::ConfigError;
use crate::link::LinkAddress;
use crate::supervisor::GivenUp;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Secrets(#[from] ConfigError),
    #[error("cannot listen for clients on {address}: {error}{}", port_hint(.error, "grpc-port"))]
    Grpc { address: SocketAddr, error: io::Error },
    #[error("cannot listen for HTTP clients on {address}: {error}{}", http_port_hint(.error))]
    Http { address: SocketAddr, error: io::Error },
    #[error("cannot listen for metrics on {address}: {error}{}", port_hint(.error, "metrics-port"))]
    Metrics { address: SocketAddr, error: io::Error },
    #[error("cannot listen for admin calls on {address}: {error}{}", listen_hint(.error, "admin-listen"))]
    Admin { address: SocketAddr, error: io::Error },
    #[error("cannot listen for KEDA on {address}: {error}{}", listen_hint(.error, "scaler-listen"))]
    Scaler { address: SocketAddr, error: io::Error },
    #[error("cannot listen for workers on {address}: {error}{}", port_hint(.error, "link-port"))]
    Link { address: LinkAddress, error: io::Error },
    #[error("cannot send spans to a collector: {0}")]
    Traces(String),
    #[error("the system refused a thread or a file: {0}")]
    System(#[from] io::Error),
}

fn port_hint(error: &io::Error, flag: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("; is a server running already? --{flag} picks another port"),
        _ => String::new(),
    }
}

fn listen_hint(error: &io::Error, flag: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("; is a server running already? --{flag} picks another address or port")
        }
        _ => String::new(),
    }
}

/// The one port that is there unless told otherwise and need not be.
fn http_port_hint(error: &io::Error) -> String {
    match port_hint(error, "http-port") {
        hint if hint.is_empty() => hint,
        hint => format!("{hint}, --http-port off does without"),
    }
}

/// Why a server that started cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("model `{model}` cannot be served: {reason}")]
    Model { model: Arc<str>, reason: String },
    #[error("worker `{}` was given up: {}", .0.worker, .0.reason)]
    Worker(GivenUp),
    #[error("the driver or the worker link ended by itself")]
    Ended,
}

/// Something that does not mend by itself.
#[derive(Debug)]
pub struct Trouble {
    /// What it is.
    pub what: String,
    /// There is no point in serving on.
    pub fatal: bool,
}
