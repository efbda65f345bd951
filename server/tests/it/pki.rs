//! Authorities and certificates, as files.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, SanType};

/// An authority that only the tests trust.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Where a certificate and its key are.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = called("an authority of tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Writes the authority's own certificate.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, self.pem()).expect("write");
        path
    }

    /// Writes a certificate of this machine, and of this name, a DNS name or a URI.
    pub(crate) fn issue(&self, folder: &Path, name: &str) -> Files {
        let mut params = CertificateParams::default();
        params.distinguished_name = called(name);
        let own = match name.contains("://") {
            true => SanType::URI(name.try_into().expect("ASCII")),
            false => SanType::DnsName(name.try_into().expect("ASCII")),
        };
        params.subject_alt_names = vec![own, SanType::IpAddress([127, 0, 0, 1].into())];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let file = name.replace(['/', ':'], "_");
        let files = Files { cert: folder.join(format!("{file}.crt")), key: folder.join(format!("{file}.key")) };
        // Each is whole or not there, as whatever renews certificates has it.
        for (path, text) in [(&files.key, key.serialize_pem()), (&files.cert, certificate.pem())] {
            let new = path.with_extension("new");
            std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).expect("write");
        }
        files
    }
}

/// OpenSSL takes one whose issuer is called as it is for its own.
fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}
