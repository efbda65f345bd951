//! What stands at each port, and what is to be said of ports that are open.

use std::net::SocketAddr;

use tracing::warn;

use crate::config::{Config, Secrets};
use crate::lanes::Lanes;
use crate::link::LinkAddress;
use crate::listen::Gate;
use crate::metrics::Metrics;

/// What they are made of.
pub(super) struct Doors {
    pub(super) secrets: Secrets,
    pub(super) metrics: Metrics,
}

impl Doors {
    /// At the port that metrics call so, where this is spoken.
    pub(super) fn gate(&self, port: &'static str, protocol: &[u8]) -> Gate {
        let acceptor = self.secrets.tls.as_ref().map(|tls| tls.acceptor(protocol));
        Gate::new(port, acceptor, self.secrets.access.clone(), self.metrics.clone())
    }

    /// At a port that speaks no TLS, whatever others do.
    pub(super) fn plain_gate(&self, port: &'static str) -> Gate {
        Gate::new(port, None, self.secrets.access.clone(), self.metrics.clone())
    }

    /// Follows the files of certificates and tokens for as long as the server runs.
    pub(super) fn follow(&self, config: &Config, lanes: &Lanes) {
        let Secrets { tls, link_tls, worker_tokens, access } = self.secrets.clone();
        let on = lanes.first();
        if let Some(tls) = tls {
            let ports = [("grpc", true), ("http", config.http.is_some()), ("admin", config.admin.is_some())];
            let ports = ports.into_iter().filter_map(|(port, is_open)| is_open.then_some(port)).collect();
            on.spawn(tls.follow(ports, self.metrics.clone()));
        }
        if let Some(tls) = link_tls.filter(|_| config.link.is_some()) {
            on.spawn(tls.follow(vec!["link"], self.metrics.clone()));
        }
        on.spawn(worker_tokens.follow());
        on.spawn(access.follow());
    }

    /// Says which secrets can be read on the way, and which doors are open.
    pub(super) fn warn(&self, config: &Config) {
        let is_near = |address: SocketAddr| address.ip().is_loopback();
        let Secrets { tls, link_tls, worker_tokens, access } = &self.secrets;
        let far =
            [Some(config.grpc), config.http, config.admin].into_iter().flatten().find(|address| !is_near(*address));
        if let Some(address) = far
            && tls.is_none()
            && access.has_tokens()
        {
            warn!(%address, "callers' tokens can be read on the way: set `tls_cert` and `tls_key`");
        }
        if let Some(LinkAddress::Tcp(address)) = config.link
            && !is_near(address)
            && link_tls.is_none()
            && worker_tokens.are_tokens()
        {
            warn!(%address, "workers' tokens can be read on the way: set `link_tls_cert` and `link_tls_key`");
        }
        if let Some(address) = config.admin
            && !is_near(address)
            && !access.is_guarded()
        {
            warn!(%address, "whoever reaches this address sees what every tenant waits for: set `[[access]]` entries");
        }
    }
}
