//! What the configuration's files of certificates and tokens hold. Read once, before a port is bound, and followed from
//! then on.

use crate::access::Access;
use crate::link::SharedTokens;
use crate::tls::{FileError, Tls, TlsFiles};

use super::error::ConfigError;
use super::{Config, WorkerProof, Workers};

/// Certificates and tokens, as their files have them.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// TLS of the ports for clients and for admin calls, if they speak it.
    pub tls: Option<Tls>,
    /// TLS of the port for workers, if it speaks it.
    pub link_tls: Option<Tls>,
    /// What workers show that are no children of this server.
    pub worker_tokens: SharedTokens,
    /// Who may call.
    pub access: Access,
}

impl Secrets {
    /// Reads the files that a configuration names.
    ///
    /// # Errors
    /// The first that cannot be used, by the key that names it.
    pub fn read(config: &Config) -> Result<Self, ConfigError> {
        let tls = |files: &Option<TlsFiles>| files.clone().map(Tls::load).transpose().map_err(of_file);
        let worker_tokens = match &config.worker_proof {
            WorkerProof::Token(token) => SharedTokens::of(token),
            WorkerProof::TokenFile(path) => SharedTokens::of_file(path.clone())
                .map_err(|problem| ConfigError::Value { key: "worker_token_file".into(), problem })?,
            WorkerProof::Certificate => SharedTokens::of_certificates(),
        };
        if config.workers == Workers::External && worker_tokens.is_empty() {
            let problem =
                "must be set with `workers = \"external\"`, or `worker_token_file`, or `link_tls_client_ca`: \
                           what workers show when they dial"
                    .to_owned();
            return Err(ConfigError::Value { key: "worker_token".into(), problem });
        }
        let access = Access::new(config.access.clone()).map_err(|error| {
            let key = format!("access.{}.{}", error.name, error.key);
            ConfigError::Value { key, problem: error.problem }
        })?;
        Ok(Self { tls: tls(&config.tls)?, link_tls: tls(&config.link_tls)?, worker_tokens, access })
    }
}

fn of_file(error: FileError) -> ConfigError {
    ConfigError::Value { key: error.key, problem: format!("{} {}", error.path.display(), error.problem) }
}
