//! Who may call: the file's `[[access]]` entries, checked.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use crate::access::{Digest, Entry, Identity, Proof, Right};
use crate::frontend::TENANT_BYTES_MAX;
use crate::models::ModelName;

use super::error::ConfigError;
use super::model::ModelConfig;

/// An entry as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessFile {
    pub(super) name: Option<String>,
    token_file: Option<PathBuf>,
    token_sha256: Option<String>,
    certificate: Option<String>,
    tenant: Option<String>,
    rights: Option<BTreeSet<Right>>,
    models: Option<BTreeSet<ModelName>>,
}

impl AccessFile {
    pub(super) const KEYS: &[&str] =
        &["name", "token_file", "token_sha256", "certificate", "tenant", "rights", "models"];

    /// The entry; `models` are those there are.
    fn check(self, name: String, models: &[ModelConfig]) -> Result<Entry, ConfigError> {
        let wrong = |key: &str, problem: &str| {
            Err(ConfigError::Value { key: format!("access.{name}.{key}"), problem: problem.to_owned() })
        };
        let proof = match (self.token_file, self.token_sha256, self.certificate) {
            (Some(path), None, None) => Proof::TokenFile(path),
            (None, Some(hex), None) => match Digest::from_hex(&hex) {
                Some(digest) => Proof::TokenSha256(digest),
                None => return wrong("token_sha256", "must be 64 hexadecimal digits"),
            },
            (None, None, Some(certificate)) if certificate.is_empty() => {
                return wrong("certificate", "must be a DNS name or a URI");
            }
            (None, None, Some(certificate)) => Proof::Certificate(certificate),
            (None, None, None) => {
                return wrong("token_file", "must be set, or one of `token_sha256` and `certificate`");
            }
            _ => return wrong("token_file", "must be alone: an entry has one of it, `token_sha256` and `certificate`"),
        };
        let is_name = |tenant: &String| {
            !tenant.is_empty() && tenant.len() <= TENANT_BYTES_MAX && tenant.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if self.tenant.as_ref().is_some_and(|tenant| !is_name(tenant)) {
            return wrong("tenant", "must be 1 to 128 bytes of printable ASCII without spaces");
        }
        let rights = self.rights.unwrap_or_default();
        if rights.is_empty() {
            return wrong("rights", "must have at least one of `infer`, `inspect`, `control` and `admin`");
        }
        if let Some(listed) = &self.models {
            if rights.contains(&Right::Control) || rights.contains(&Right::Admin) {
                return wrong("models", "cannot be with the rights `control` and `admin`, which are over all models");
            }
            if let Some(unknown) = listed.iter().find(|listed| models.iter().all(|model| model.name != **listed)) {
                return wrong("models", &format!("`{unknown}` is not configured"));
            }
        }
        let models = self.models.map(|models| models.iter().map(ToString::to_string).collect());
        let identity = Identity { tenant: self.tenant.map(Into::into), rights, models, name };
        Ok(Entry { proof, identity: Arc::new(identity) })
    }
}

/// All entries. Certificates are asked for where `asks_certificates`.
pub(super) fn check(
    entries: Vec<AccessFile>,
    models: &[ModelConfig],
    asks_certificates: bool,
) -> Result<Vec<Entry>, ConfigError> {
    let mut checked: Vec<Entry> = Vec::with_capacity(entries.len());
    for (index, mut entry) in entries.into_iter().enumerate() {
        let name = entry.name.take().unwrap_or_default();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) {
            let problem = "must be 1 to 64 letters, digits, `-`, `_` and `.`".to_owned();
            return Err(ConfigError::Value { key: format!("access[{index}].name"), problem });
        }
        let entry = entry.check(name, models)?;
        let name = &entry.identity.name;
        let wrong =
            |key: &str, problem: String| Err(ConfigError::Value { key: format!("access.{name}.{key}"), problem });
        if checked.iter().any(|other| other.identity.name == *name) {
            return wrong("name", "is another entry's too".to_owned());
        }
        if let Proof::Certificate(certificate) = &entry.proof {
            if !asks_certificates {
                return wrong("certificate", "needs `tls_client_ca`, by which certificates are checked".to_owned());
            }
            if let Some(other) = checked.iter().find(|other| other.proof == entry.proof) {
                return wrong("certificate", format!("`{certificate}` is `{}` already", other.identity.name));
            }
        }
        checked.push(entry);
    }
    Ok(checked)
}
