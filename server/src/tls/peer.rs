//! Who is at the other end of a connection, as far as its certificate says.

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

/// A client whose certificate was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its subject alternative names: DNS names and URIs, as the certificate spells them. The one kind has no `:`, and the
    /// other always, so that none is taken for one of the other kind.
    pub(crate) names: Vec<String>,
    /// SHA-256 of the certificate.
    pub(crate) fingerprint: [u8; 32],
}

impl Peer {
    /// By a certificate that rustls has verified; none by one that has no names that can be read.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        let names = match webpki::EndEntityCert::try_from(certificate) {
            Ok(certificate) => {
                let uris = certificate.valid_uri_names().filter(|uri| has_scheme(uri));
                certificate.valid_dns_names().chain(uris).map(str::to_owned).collect()
            }
            Err(_) => Vec::new(),
        };
        Self { names, fingerprint: Sha256::digest(certificate).into() }
    }
}

/// Begins as a URI does (RFC 3986, 3.1): `spiffe://…`, `urn:…`. What does not might look like a DNS name.
fn has_scheme(uri: &str) -> bool {
    let Some((scheme, _)) = uri.split_once(':') else { return false };
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(is_inner)
}
