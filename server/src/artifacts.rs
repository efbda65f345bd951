//! Tokenizers on disk, by hash, so that a worker is asked for each only once.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::warn;

use crate::driver::{ArtifactError, ArtifactWanted, Event, Handle};
use crate::models::Digest;
use crate::tokenize::Vocabulary;

/// Runs the driver's errands until the driver is gone. Files live in `home/tokenizers`.
pub async fn run_errands(home: PathBuf, mut errands: mpsc::UnboundedReceiver<ArtifactWanted>, driver: Handle) {
    let folder = home.join("tokenizers");
    while let Some(errand) = errands.recv().await {
        let folder = folder.clone();
        let sha256 = errand.sha256().to_owned();
        // A tokenizer that the library cannot even fail at is not left to be waited for.
        let panicked = |_| Err(ArtifactError::Unusable("reading it panicked".into()));
        let result = tokio::task::spawn_blocking(move || run(&folder, errand)).await.unwrap_or_else(panicked);
        driver.tell(Event::Tokenizer { sha256, result }).await;
    }
}

fn run(folder: &Path, errand: ArtifactWanted) -> Result<Vocabulary, ArtifactError> {
    match errand {
        ArtifactWanted::Read { sha256 } => {
            let found = read(folder, &sha256).map_err(ArtifactError::Missing);
            found.and_then(|data| parse(&sha256, &data))
        }
        ArtifactWanted::Keep { sha256, data } => {
            let checked = check(&sha256, &data).map_err(ArtifactError::Missing);
            let result = checked.and_then(|()| parse(&sha256, &data));
            if result.is_ok()
                && let Err(error) = keep(folder, &sha256, &data)
            {
                // One that cannot be kept is fetched again next time; this time it is here.
                warn!(%error, folder = %folder.display(), "cannot keep a tokenizer");
            }
            result
        }
    }
}

fn parse(sha256: &str, data: &[u8]) -> Result<Vocabulary, ArtifactError> {
    Vocabulary::parse(sha256, data).map_err(ArtifactError::Unusable)
}

fn read(folder: &Path, sha256: &str) -> Result<Bytes, String> {
    check_name(sha256)?;
    let data = std::fs::read(path(folder, sha256)).map_err(|error| error.to_string())?;
    check(sha256, &data)?;
    Ok(data.into())
}

fn keep(folder: &Path, sha256: &str, data: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut file, data)?;
    file.persist(path(folder, sha256)).map_err(|error| error.error)?;
    Ok(())
}

fn path(folder: &Path, sha256: &str) -> PathBuf {
    folder.join(format!("{sha256}.json"))
}

fn check(sha256: &str, data: &[u8]) -> Result<(), String> {
    check_name(sha256)?;
    let found = Digest::of(data).to_string();
    if found == sha256 { Ok(()) } else { Err(format!("its SHA-256 is {found}, not {sha256}")) }
}

/// A hash comes from a worker and becomes a file name: nothing but a hash may.
fn check_name(sha256: &str) -> Result<(), String> {
    let is_hash = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { Ok(()) } else { Err(format!("`{}` is no SHA-256", sha256.escape_default())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENIZER: &[u8] =
        br#"{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}"#;

    #[test]
    fn keeps_what_it_is_given_and_finds_it_again() {
        let folder = tempfile::tempdir().expect("folder");
        let sha256 = Digest::of(TOKENIZER).to_string();
        let data = Bytes::from_static(TOKENIZER);
        let kept = run(folder.path(), ArtifactWanted::Keep { sha256: sha256.clone(), data });
        assert!(kept.is_ok(), "{kept:?}");
        let found = run(folder.path(), ArtifactWanted::Read { sha256 });
        assert!(found.is_ok(), "{found:?}");
    }

    #[test]
    fn refuses_what_has_another_hash() {
        let folder = tempfile::tempdir().expect("folder");
        let sha256 = Digest::of(b"one").to_string();
        let kept = run(folder.path(), ArtifactWanted::Keep { sha256, data: Bytes::from_static(b"two") });
        assert!(matches!(kept, Err(ArtifactError::Missing(_))), "{kept:?}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
    }

    #[test]
    fn what_no_parser_reads_is_unusable_and_not_kept() {
        let folder = tempfile::tempdir().expect("folder");
        let sha256 = Digest::of(b"{}").to_string();
        let kept = run(folder.path(), ArtifactWanted::Keep { sha256, data: Bytes::from_static(b"{}") });
        assert!(matches!(kept, Err(ArtifactError::Unusable(_))), "{kept:?}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
    }

    #[test]
    fn a_hash_is_never_a_path() {
        let result = run(Path::new("/tmp"), ArtifactWanted::Read { sha256: "../../etc/passwd".into() });
        assert!(matches!(result, Err(ArtifactError::Missing(why)) if why.contains("no SHA-256")));
    }
}
