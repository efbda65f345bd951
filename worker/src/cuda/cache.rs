//! Compiled kernels on disk, so that a worker compiles each only the first time it starts on a kind of GPU.

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

/// What an entry begins with. The last byte is the form's version.
const MAGIC: [u8; 8] = *b"shoal-k\x01";
/// Magic, length of the payload, SHA-256 of the payload.
const HEADER_BYTES: usize = 8 + 8 + 32;

/// A folder of compiled kernels. Any number of processes may share one.
///
/// It is an aid: where it cannot be written, kernels are compiled at each start, and a warning says so once.
#[derive(Debug)]
pub(crate) struct KernelCache {
    folder: PathBuf,
    is_warned: AtomicBool,
}

/// Names an entry: equal for equal code, whatever it is compiled by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// `parts` is all that the compiled code depends on; `name` is for whoever looks into the folder.
    pub(crate) fn new<'a>(name: &str, parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            // With its length, so that what one part loses another cannot gain.
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("{name}-{digest}"))
    }
}

impl KernelCache {
    /// The folder need not exist.
    pub(crate) fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), is_warned: AtomicBool::new(false) }
    }

    /// What is kept under `key`, else what `compile` makes, which is kept from then on.
    pub(crate) fn find_or<E>(&self, key: &Key, compile: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Vec<u8>, E> {
        if let Some(found) = self.find(key) {
            return Ok(found);
        }
        let compiled = compile()?;
        if let Err(error) = self.keep(key, &compiled)
            && !self.is_warned.swap(true, Ordering::Relaxed)
        {
            let folder = self.folder.display();
            tracing::warn!(%error, %folder, "compiled kernels cannot be kept, so every start compiles them");
        }
        Ok(compiled)
    }

    /// Where an entry lies.
    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(&key.0)
    }

    fn find(&self, key: &Key) -> Option<Vec<u8>> {
        let path = self.path(key);
        let mut entry = fs::read(&path).ok()?;
        if !is_whole(&entry) {
            tracing::warn!(path = %path.display(), "a compiled kernel was damaged and is compiled anew");
            // If it stays, the next start finds it damaged again.
            let _: io::Result<()> = fs::remove_file(&path);
            return None;
        }
        entry.drain(..HEADER_BYTES);
        Some(entry)
    }

    /// Whoever reads meanwhile finds all of the entry or nothing.
    fn keep(&self, key: &Key, payload: &[u8]) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(&self.folder)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let partial = self.folder.join(format!(".{}-{number}.partial", process::id()));
        let written = fs::write(&partial, [&header(payload)[..], payload].concat());
        let kept = written.and_then(|()| fs::rename(&partial, self.path(key)));
        if kept.is_err() {
            // It may not even be there.
            let _: io::Result<()> = fs::remove_file(&partial);
        }
        kept
    }
}

fn header(payload: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    header[16..].copy_from_slice(&Sha256::digest(payload));
    header
}

/// Whether an entry is what was once written.
fn is_whole(entry: &[u8]) -> bool {
    entry.split_at_checked(HEADER_BYTES).is_some_and(|(head, payload)| head == header(payload))
}
