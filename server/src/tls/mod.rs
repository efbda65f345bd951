//! TLS of the ports: what their files hold, checked, and read again whenever they change.
//!
//! One provider of cryptography, ring, for server and clients: rustls panics at its first use where a graph has two and
//! none was chosen, so `main` chooses before anything else.

mod files;
mod follow;
mod peer;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod validity;

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tracing::{error, info, warn};

use crate::metrics::Metrics;

pub(crate) use files::read_bounded;
pub use files::{ClientAuth, FileError, TlsFiles};
pub(crate) use follow::{Fingerprint, Reading, follow, whole};
pub(crate) use peer::Peer;

use validity::Validity;

/// Protocols offered on gRPC's ports and the link.
pub(crate) const H2: &[u8] = b"h2";
/// Protocols offered to HTTP's clients.
pub(crate) const HTTP1: &[u8] = b"http/1.1";

/// Chooses ring for all of this process; to be called first thing.
pub fn choose_provider() {
    // An error says that one was chosen before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A certificate in use, whose files are followed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls {
    files: Arc<TlsFiles>,
    current: watch::Sender<Arc<Loaded>>,
    /// What they held at the start.
    seen: Fingerprint,
}

/// What the files held when last they were good.
#[derive(Debug)]
struct Loaded {
    config: ServerConfig,
    validity: Validity,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong, by the key of the setting that names the file.
    pub fn load(files: TlsFiles) -> Result<Self, FileError> {
        // First: what changes while the files are read is found again.
        let seen = Fingerprint::of(&files.paths());
        let loaded = Loaded::read(&files)?;
        Ok(Self { files: Arc::new(files), current: watch::Sender::new(Arc::new(loaded)), seen })
    }

    /// Takes connections that speak this protocol, with the certificate of now. One that does not say what it speaks is
    /// taken too.
    pub(crate) fn acceptor(&self, protocol: &[u8]) -> Acceptor {
        let acceptor = Acceptor { tls: self.clone(), protocol: protocol.into(), made: Arc::default() };
        acceptor.current();
        acceptor
    }

    /// Says what is to be said of the certificate, on these ports, and follows its files for as long as it runs. A
    /// certificate that is broken is told once, and the one before stays.
    pub(crate) async fn follow(self, ports: Vec<&'static str>, metrics: Metrics) {
        let loaded = self.current.borrow().clone();
        self.tell(&loaded, &ports, &metrics);
        let files = self.files.clone();
        let read = move || whole(Loaded::read(&files));
        follow(self.files.paths(), self.seen, read, |(new, problem)| {
            if let Some(loaded) = new.map(Arc::new) {
                info!(file = %self.files.cert.display(), ?ports, "a new certificate is in use");
                self.tell(&loaded, &ports, &metrics);
                self.current.send_replace(loaded);
            }
            if let Some(error) = problem {
                error!(key = error.key, ?ports, "the certificate in use stays, since the new one is broken: {error}");
            }
        })
        .await;
    }

    fn tell(&self, loaded: &Loaded, ports: &[&'static str], metrics: &Metrics) {
        for port in ports {
            metrics.certificate_expiry(port, loaded.validity.not_after);
        }
        if let Some(problem) = loaded.validity.problem_now() {
            warn!(file = %self.files.cert.display(), "the certificate {problem}: clients that check it will not connect");
        }
    }
}

impl Loaded {
    fn read(files: &TlsFiles) -> Result<Self, FileError> {
        let (config, leaf) = files.read(provider())?;
        let unreadable = || files.wrong_cert("has no validity that can be read".to_owned());
        let validity = Validity::of(&leaf).ok_or_else(unreadable)?;
        Ok(Self { config, validity })
    }
}

/// Takes connections of one protocol.
#[derive(Clone, Debug)]
pub(crate) struct Acceptor {
    tls: Tls,
    protocol: Box<[u8]>,
    /// The configuration made for this protocol, and what it was made of. Kept for the sessions that it may remember.
    made: Arc<std::sync::Mutex<Option<Made>>>,
}

#[derive(Clone, Debug)]
struct Made {
    of: Arc<Loaded>,
    config: Arc<ServerConfig>,
}

impl Acceptor {
    pub(crate) fn protocol(&self) -> &[u8] {
        &self.protocol
    }

    /// For the next connection.
    pub(crate) fn current(&self) -> TlsAcceptor {
        let loaded = self.tls.current.borrow().clone();
        // A poisoned lock means that a panic is already under way; what it holds is whole.
        let mut made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let config = match &*made {
            Some(made) if Arc::ptr_eq(&made.of, &loaded) => made.config.clone(),
            _ => {
                let mut config = loaded.config.clone();
                config.alpn_protocols = vec![self.protocol.to_vec()];
                remember(&mut config, if self.tls.files.client_ca.is_none() { SESSIONS_MAX } else { 0 });
                let config = Arc::new(config);
                *made = Some(Made { of: loaded, config: config.clone() });
                config
            }
        };
        TlsAcceptor::from(config)
    }
}

/// Sessions remembered for clients that come back.
///
/// None where clients show certificates. One that comes back shows none, and rustls takes the one of its first handshake
/// without another look at how long that is valid: it would be known for as long as it came back often enough.
const SESSIONS_MAX: usize = 1024;

/// Sessions are remembered by port: those of another, or of the certificates before, mean nothing here.
fn remember(config: &mut ServerConfig, sessions_max: usize) {
    if sessions_max > 0 {
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(sessions_max);
    } else {
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_tls13_tickets = 0;
    }
}
