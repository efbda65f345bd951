//! What can be wrong with a configuration.

use std::path::PathBuf;

/// Files longer than this are not configuration.
pub(super) const BYTES_MAX: u64 = 1 << 20;

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path} has {bytes} bytes, more than the {BYTES_MAX} a configuration may have")]
    TooLong { path: PathBuf, bytes: u64 },
    #[error("{path}, line {line}: {problem}")]
    Syntax { path: PathBuf, line: usize, problem: String },
    #[error("unknown key `{key}`; did you mean `{near}`?")]
    UnknownKey { key: String, near: String },
    #[error("`{key}`: {problem}")]
    Value { key: String, problem: String },
}
