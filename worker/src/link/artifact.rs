//! Reads the small files a server asks for by hash, such as a tokenizer.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::session::Models;
use crate::source::ModelSource;

/// Bytes of an artifact at most.
const BYTES_MAX: u64 = 64 << 20;

/// Why an artifact is not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArtifactError {
    #[error("no model in memory has it")]
    Unknown,
    #[error("too many artifacts wait to be read already")]
    Busy,
    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is larger than {BYTES_MAX} bytes", path = path.display())]
    TooLarge { path: PathBuf },
    #[error("{path} has changed since the model was loaded", path = path.display())]
    Changed { path: PathBuf },
}

/// The file with this hash, if a model in memory came with it.
pub(super) fn find(models: &Models, sha256: &str) -> Result<PathBuf, ArtifactError> {
    let found = models.sources().find_map(|(source, card)| match source {
        ModelSource::Folder(folder) if card.tokenizer_sha256 == sha256 => Some(folder.join("tokenizer.json")),
        _ => None,
    });
    found.filter(|_| !sha256.is_empty()).ok_or(ArtifactError::Unknown)
}

/// Reads and verifies it. Blocks.
pub(super) fn read(path: &Path, sha256: &str) -> Result<Bytes, ArtifactError> {
    let failed = |source| ArtifactError::Read { path: path.to_owned(), source };
    let mut data = Vec::new();
    File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut data)).map_err(failed)?;
    if data.len() as u64 > BYTES_MAX {
        return Err(ArtifactError::TooLarge { path: path.to_owned() });
    }
    if hex(&Sha256::digest(&data)) != sha256 {
        return Err(ArtifactError::Changed { path: path.to_owned() });
    }
    Ok(data.into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_what_has_the_hash_that_was_asked_for() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, "{}").unwrap();
        let sha256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(read(&path, sha256).unwrap(), "{}");
        std::fs::write(&path, "{ }").unwrap();
        assert!(matches!(read(&path, sha256), Err(ArtifactError::Changed { .. })));
        std::fs::remove_file(&path).unwrap();
        let error = read(&path, sha256).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
    }

    #[test]
    fn an_empty_hash_finds_nothing() {
        assert!(matches!(find(&Models::new(Default::default()), ""), Err(ArtifactError::Unknown)));
    }
}
