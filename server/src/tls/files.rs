//! The files of a certificate, and everything that can be wrong with them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// Files longer than this are no certificates.
const BYTES_MAX: u64 = 1 << 20;

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// They must.
    #[default]
    Required,
    /// They may, and one that is shown must be good.
    Optional,
}

/// Where a certificate and its key are, and whose certificates callers show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// What the keys of these settings begin with: nothing, or `link_`.
    pub prefix: &'static str,
    /// The certificate, and those that lead from it to its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities that sign callers' certificates.
    pub client_ca: Option<(PathBuf, ClientAuth)>,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {path} {problem}", path = path.display())]
pub struct FileError {
    /// The setting that names it.
    pub key: String,
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
}

impl TlsFiles {
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let ca = self.client_ca.as_ref().map(|(path, _)| path);
        [&self.cert, &self.key].into_iter().chain(ca).cloned().collect()
    }

    /// What the files say, and the certificate itself.
    pub(super) fn read(
        &self,
        provider: Arc<CryptoProvider>,
    ) -> Result<(ServerConfig, CertificateDer<'static>), FileError> {
        let chain = self.certificates("tls_cert", &self.cert)?;
        let leaf = chain[0].clone();
        let wrong_key = |problem: String| self.wrong("tls_key", &self.key, problem);
        let bytes = read_bounded(&self.key, BYTES_MAX).map_err(wrong_key)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => wrong_key("has no private key in PEM".to_owned()),
            error => wrong_key(format!("is no private key in PEM: {error}")),
        })?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.wrong_cert(format!("cannot be used: {error}")))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some((path, auth)) => {
                let wrong = |problem: String| self.wrong("tls_client_ca", path, problem);
                let mut roots = RootCertStore::empty();
                for authority in self.certificates("tls_client_ca", path)? {
                    roots.add(authority).map_err(|error| wrong(format!("has a certificate that is none: {error}")))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                let verifier = match auth {
                    ClientAuth::Required => verifier,
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(
                    verifier.build().map_err(|error| wrong(format!("cannot be used: {error}")))?,
                )
            }
        };
        let config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                wrong_key(format!("does not belong to the certificate in {}", self.cert.display()))
            }
            // Of the certificate it is known by now that it is in PEM, not that it is one.
            rustls::Error::InvalidCertificate(error) => self.wrong_cert(format!("is no certificate: {error}")),
            error => wrong_key(format!("cannot be used: {error}")),
        })?;
        Ok((config, leaf))
    }

    /// The certificates of a file; at least one.
    fn certificates(&self, key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
        let wrong = |problem: String| self.wrong(key, path, problem);
        let bytes = read_bounded(path, BYTES_MAX).map_err(wrong)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        match found {
            Ok(found) if found.is_empty() => Err(wrong("has no certificate in PEM".to_owned())),
            Ok(found) => Ok(found),
            Err(error) => Err(wrong(format!("is not PEM: {error}"))),
        }
    }

    pub(super) fn wrong_cert(&self, problem: String) -> FileError {
        self.wrong("tls_cert", &self.cert, problem)
    }

    fn wrong(&self, key: &str, path: &Path, problem: String) -> FileError {
        FileError { key: format!("{}{key}", self.prefix), path: path.to_owned(), problem }
    }
}

/// A file that has to be short.
///
/// # Errors
/// What is wrong with it, to stand behind its path.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let unread = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unread)?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("has more than {bytes_max} bytes"));
    }
    Ok(bytes)
}
