//! One file on its way in: written as `NAME.part`, hashed while it grows, renamed when it is verified.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use super::digest::{Digest, Hasher};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedFile {
    /// Below the model's folder, with `/`.
    pub path: &'static str,
    /// What it must be; `None` where nobody knows beforehand.
    pub pin: Option<Pin>,
    /// Without it there is no model.
    pub required: bool,
}

/// What a file is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    pub size: u64,
    pub sha256: Digest,
}

impl WantedFile {
    /// Most bytes of weights that are not pinned; larger models do not fit one device anyway.
    const WEIGHTS_MAX: u64 = 64 << 30;
    /// Most bytes of any other file that is not pinned; the largest tokenizers have 40 MB.
    const TEXT_MAX: u64 = 256 << 20;

    /// No more bytes than these are written.
    pub(super) fn size_max(&self) -> u64 {
        match self.pin {
            Some(pin) => pin.size,
            None if self.path == super::WEIGHTS => Self::WEIGHTS_MAX,
            None => Self::TEXT_MAX,
        }
    }
}

/// A file that is there and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub size: u64,
    pub sha256: Digest,
}

/// A file that grows. Dropping it keeps what was written, for the next attempt.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    length: u64,
    size_max: u64,
}

impl Part {
    /// Opens what an earlier attempt left, or begins anew. Reads what is there, to hash it.
    pub(super) fn open(target: &Path, wanted: &WantedFile) -> io::Result<Self> {
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        let path = part_path(target);
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
        let mut part = Self { path, file, hasher: Hasher::default(), length: 0, size_max: wanted.size_max() };
        if part.file.metadata()?.len() > part.size_max {
            part.restart()?;
        }
        let mut buffer = vec![0; 1 << 18];
        loop {
            match part.file.read(&mut buffer)? {
                0 => return Ok(part),
                n => {
                    part.hasher.update(&buffer[..n]);
                    part.length += n as u64;
                }
            }
        }
    }

    /// Throws away what is there.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        use io::Seek as _;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hasher = Hasher::default();
        self.length = 0;
        Ok(())
    }

    /// Leaves nothing behind, neither the file nor a folder made only for it.
    pub(super) fn discard(self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        if let Some(folder) = self.path.parent() {
            // Refused for a folder with other files in it, which is meant to stay.
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }

    /// Bytes there.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Appends all that `reader` yields, telling `on_bytes` after each piece how many bytes came.
    pub(super) fn append(&mut self, mut reader: impl Read, mut on_bytes: impl FnMut(u64)) -> Result<(), PartError> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(PartError::Cut(error)),
            };
            if self.length + n as u64 > self.size_max {
                return Err(PartError::TooLong { max: self.size_max });
            }
            self.file.write_all(&buffer[..n]).map_err(PartError::Disk)?;
            self.hasher.update(&buffer[..n]);
            self.length += n as u64;
            on_bytes(n as u64);
        }
    }

    /// Verifies what is there and gives it its name. What is not as pinned is deleted.
    pub(super) fn finish(self, target: &Path, pin: Option<Pin>) -> Result<Received, PartError> {
        let received = Received { size: self.length, sha256: self.hasher.finish() };
        let wrong = pin.and_then(|pin| {
            if pin.size != received.size {
                Some(PartError::Size { expected: pin.size, found: received.size })
            } else if pin.sha256 != received.sha256 {
                Some(PartError::Hash { expected: pin.sha256, found: received.sha256 })
            } else {
                None
            }
        });
        if let Some(wrong) = wrong {
            fs::remove_file(&self.path).map_err(PartError::Disk)?;
            return Err(wrong);
        }
        self.file.sync_all().map_err(PartError::Disk)?;
        fs::rename(&self.path, target).map_err(PartError::Disk)?;
        Ok(received)
    }
}

fn part_path(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Why a file did not come in.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartError {
    /// The sender stopped; what came is kept.
    #[error("the transfer broke off: {0}")]
    Cut(#[source] io::Error),
    #[error("it is longer than {max} bytes")]
    TooLong { max: u64 },
    #[error("it has {found} bytes where {expected} are pinned")]
    Size { expected: u64, found: u64 },
    #[error("its SHA-256 is {found} where {expected} is pinned")]
    Hash { expected: Digest, found: Digest },
    #[error("cannot write it: {0}")]
    Disk(#[source] io::Error),
}

#[cfg(test)]
mod tests;
