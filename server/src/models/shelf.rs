//! The folder of one model in the store, and what may be trusted in it.
//!
//! ```text
//! $SHOAL_HOME/models/<model>/
//!   <digest>/        complete: its files, and `.shoal.json`, the list of them; named only when all are verified
//!   refs/<revision>  the digest a branch, tag or commit of a hub repository stood for when it was pulled
//!   .pull-<key>/     on its way in; kept when a pull breaks off, so that the next one goes on
//!   .pip-<random>/   where pip works; never kept
//!   .lock            held by the process that pulls
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::catalogue::digest_of;
use super::digest::Digest;
use super::part::Received;

const MANIFEST: &str = ".shoal.json";
const PIP_PREFIX: &str = ".pip-";

/// The folder of one model.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
}

/// What a complete folder holds and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Manifest {
    /// What was asked for, as a source is written.
    pub source: String,
    /// The mirror that gave the last of it.
    pub mirror: String,
    /// The commit the files are of, where the mirror said.
    pub commit: Option<String>,
    /// By path below the folder, with `/`.
    pub files: BTreeMap<String, ManifestFile>,
}

/// One file of a complete folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ManifestFile {
    /// In bytes.
    pub size: u64,
    pub sha256: Digest,
}

impl Manifest {
    /// Reads the manifest of a pulled folder; `None` if it has none, as folders of one's own.
    pub fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()
    }

    fn digest(&self) -> Digest {
        digest_of(self.files.iter().map(|(path, file)| (path.as_str(), file.sha256)))
    }

    /// Whether every file lies in `folder` with its size. Hashes were verified when it was pulled and are not read
    /// again.
    fn is_whole(&self, folder: &Path) -> bool {
        self.files.iter().all(|(path, file)| {
            fs::metadata(folder.join(path)).is_ok_and(|found| found.is_file() && found.len() == file.size)
        })
    }
}

impl From<Received> for ManifestFile {
    fn from(received: Received) -> Self {
        Self { size: received.size, sha256: received.sha256 }
    }
}

impl Shelf {
    /// The folder; it need not exist.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where it is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits until no other process pulls this model, calling `on_wait` once if there is one.
    pub(super) fn lock(&self, wait_max: Duration, on_wait: impl FnOnce()) -> io::Result<Lock> {
        const POLL: Duration = Duration::from_millis(100);
        fs::create_dir_all(&self.folder)?;
        let file = File::options().create(true).truncate(false).write(true).open(self.folder.join(".lock"))?;
        let give_up = Instant::now() + wait_max;
        let mut on_wait = Some(on_wait);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() >= give_up => return Err(ErrorKind::TimedOut.into()),
                Err(TryLockError::WouldBlock) => {
                    if let Some(on_wait) = on_wait.take() {
                        on_wait();
                    }
                    std::thread::sleep(POLL);
                }
            }
        }
    }

    /// Removes what a killed process left of pip's work. Only under the lock.
    pub(super) fn sweep(&self, _lock: &Lock) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(PIP_PREFIX) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// A folder for pip, removed when dropped.
    pub(super) fn pip_folder(&self, _lock: &Lock) -> io::Result<tempfile::TempDir> {
        tempfile::Builder::new().prefix(PIP_PREFIX).tempdir_in(&self.folder)
    }

    /// Where files are gathered until all are there.
    pub(super) fn staging(&self, key: &str) -> PathBuf {
        self.folder.join(format!(".pull-{}", escaped(key)))
    }

    /// Makes a complete folder of a staging folder and returns it.
    pub(super) fn complete(&self, _lock: &Lock, staging: &Path, manifest: &Manifest) -> io::Result<PathBuf> {
        let digest = manifest.digest();
        let mut file = File::create(staging.join(MANIFEST))?;
        file.write_all(&serde_json::to_vec_pretty(manifest)?)?;
        file.sync_all()?;
        let target = self.folder.join(digest.short());
        if target.exists() {
            // Not whole, or it would have been found before anything was pulled.
            fs::remove_dir_all(&target)?;
        }
        fs::rename(staging, &target)?;
        Ok(target)
    }

    /// Remembers what a revision stands for.
    pub(super) fn point(&self, _lock: &Lock, revision: &str, digest: Digest) -> io::Result<()> {
        let refs = self.folder.join("refs");
        fs::create_dir_all(&refs)?;
        let mut file = tempfile::NamedTempFile::new_in(&refs)?;
        write!(file, "{digest}")?;
        file.persist(refs.join(escaped(revision))).map_err(|error| error.error)?;
        Ok(())
    }

    /// The complete folder of this digest.
    pub(super) fn find(&self, digest: Digest) -> Option<PathBuf> {
        let folder = self.folder.join(digest.short());
        let manifest = Manifest::read(&folder)?;
        (manifest.digest() == digest && manifest.is_whole(&folder)).then_some(folder)
    }

    /// The complete folder a revision stands for.
    pub(super) fn find_revision(&self, revision: &str) -> Option<PathBuf> {
        let text = fs::read_to_string(self.folder.join("refs").join(escaped(revision))).ok()?;
        self.find(text.parse().ok()?)
    }
}

/// Held while a model is pulled; the system frees it however the process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Revisions may have slashes; `+` is in none.
fn escaped(revision: &str) -> String {
    revision.replace('/', "+")
}

#[cfg(test)]
mod tests;
