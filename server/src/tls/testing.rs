//! Certificates for tests.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

/// An authority that nobody else trusts.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, as files.
pub(crate) struct Files {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn certificate(&self, names: &[&str]) -> Certificate {
        self.certificate_changed(names, |_| {})
    }

    pub(crate) fn certificate_changed(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let mut params = params(names);
        change(&mut params);
        self.signed(params, &KeyPair::generate().expect("a key"))
    }

    fn signed(&self, params: CertificateParams, key: &KeyPair) -> Certificate {
        params.signed_by(key, &self.0).expect("a certificate")
    }

    /// Writes the authority, and a certificate of these names, into a folder, under names that begin with `name`.
    pub(crate) fn write(&self, folder: &Path, name: &str, names: &[&str]) -> Files {
        self.write_changed(folder, name, names, |_| {})
    }

    pub(crate) fn write_changed(
        &self,
        folder: &Path,
        name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Files {
        let mut params = params(names);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = self.signed(params, &key);
        let path = |end: &str| folder.join(format!("{name}.{end}"));
        let (cert, key_at) = (path("crt"), path("key"));
        std::fs::write(&cert, certificate.pem()).expect("write");
        std::fs::write(&key_at, key.serialize_pem()).expect("write");
        Files { cert, key: key_at }
    }
}

/// Those that parse as addresses are addresses, others with a `:` are URIs, and the rest DNS names.
fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names
        .iter()
        .map(|name| match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if name.contains(':') => SanType::URI((*name).try_into().expect("ASCII")),
            Err(_) => SanType::DnsName((*name).try_into().expect("ASCII")),
        })
        .collect();
    params
}
