//! What is counted of the ports: who came and was not let in.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The instruments of all ports.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    handshake_failures: Family<PortLabels, Counter>,
    certificate_expiry: Family<PortLabels, Gauge>,
    denials: Family<DenialLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PortLabels {
    port: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DenialLabels {
    port: &'static str,
    code: &'static str,
}

impl Ports {
    pub(super) fn register(&self, registry: &mut Registry) {
        let all = self.clone();
        let help = "Connections that did not get through their TLS handshake";
        registry.register("tls_handshake_failures", help, all.handshake_failures);
        let (name, help) = ("tls_certificate_expiry_timestamp", "When the certificate in use expires, in Unix time");
        registry.register_with_unit(name, help, Unit::Seconds, all.certificate_expiry);
        registry.register("denied_calls", "Calls of nobody known, and of those who may not", all.denials);
    }

    pub(super) fn handshake_failed(&self, port: &'static str) {
        self.handshake_failures.get_or_create(&PortLabels { port }).inc();
    }

    pub(super) fn certificate_expiry(&self, port: &'static str, at: i64) {
        self.certificate_expiry.get_or_create(&PortLabels { port }).set(at);
    }

    pub(super) fn denied(&self, port: &'static str, code: &'static str) {
        self.denials.get_or_create(&DenialLabels { port, code }).inc();
    }
}
