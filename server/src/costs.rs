//! What models were found to cost, on disk, so that a server knows from its first batch what the one before it learned.
//!
//! A file of a few hundred bytes for each model, device and type, which people can read. Nobody waits for one, and
//! none is ever half written; of two servers that keep the same one, the last is right. Whoever plans reads them
//! [`all`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shoal_scheduler::BatchCost;
use tokio::sync::mpsc;
use tracing::warn;

use crate::driver::{CostErrand, CostKey, Event, Handle, KeptCost};
use crate::models::Digest;

/// Where files live below the home folder. Builds with debug assertions compute many times slower, and keep theirs
/// apart.
const FOLDER: &str = if cfg!(debug_assertions) { "costs-debug" } else { "costs" };
/// Files of other versions are left alone until there is something to put in their place.
const VERSION: u32 = 1;
/// Longer ones are no such files.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Nothing that a batch, a row or a token takes is longer than an hour.
const NANOS_MAX: u64 = 3_600_000_000_000;

/// The content of a file.
#[derive(Debug, Deserialize, Serialize, PartialEq, Eq)]
struct Record {
    version: u32,
    /// For people.
    model: String,
    /// Batches that taught it.
    batches: u64,
    weights: String,
    device: String,
    dtype: String,
    backend: String,
    instructions: String,
    base_ns: u64,
    row_ns: u64,
    token_ps: u64,
    token_squared_fs: u64,
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("{}", .0.message())]
    Syntax(#[from] toml::de::Error),
    #[error("its version is {0}, not {VERSION}")]
    Version(u32),
    #[error("it is about something else")]
    Other,
    #[error("a number in it is beyond all measure")]
    Number,
}

/// Runs the driver's errands until the driver is gone.
pub async fn run_errands(home: PathBuf, mut errands: mpsc::UnboundedReceiver<CostErrand>, driver: Handle) {
    let folder: Arc<Path> = home.join(FOLDER).into();
    let mut is_warned = false;
    while let Some(errand) = errands.recv().await {
        let folder = folder.clone();
        match errand {
            CostErrand::Find { model, key } => {
                let (at, of) = (path(&folder, &key), key.clone());
                let found = tokio::task::spawn_blocking(move || read(&at, &of)).await.unwrap_or_default();
                driver.tell(Event::Cost { model, key, found }).await;
            }
            CostErrand::Keep { key, cost } => {
                let kept = tokio::task::spawn_blocking(move || keep(&folder, &key, &cost)).await;
                match kept {
                    Ok(Ok(())) => is_warned = false,
                    Ok(Err((at, error))) if !is_warned => {
                        let file = at.display();
                        warn!(%file, %error, "what models cost cannot be kept: it is learned anew next time");
                        is_warned = true;
                    }
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            CostErrand::Flush { done } => {
                let _ = done.send(());
            }
        }
    }
}

/// All that is kept below a home folder, and about what, in order; files that are of no use are left out with a warning.
///
/// # Errors
/// When the folder is there and cannot be read.
pub fn all(home: &Path) -> io::Result<Vec<(CostKey, KeptCost)>> {
    let folder = home.join(FOLDER);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let at = entry?.path();
        if at.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        match try_record(&at).and_then(Record::sound) {
            // What was copied under another name is found by no server.
            Ok((key, cost)) if path(&folder, &key) == at => found.push((key, cost)),
            Ok(_) => warn!(file = %at.display(), "what a model was found to cost is not named by what it is about"),
            Err(error) => warn!(file = %at.display(), %error, "what a model was found to cost cannot be read"),
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

/// What a file says, if it is there and of use; warns if it is there and is not.
fn read(at: &Path, key: &CostKey) -> Option<KeptCost> {
    match try_read(at, key) {
        Ok(found) => Some(found),
        Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!(file = %at.display(), %error, "what a model was found to cost cannot be read, and is found out anew");
            None
        }
    }
}

fn try_read(at: &Path, key: &CostKey) -> Result<KeptCost, Unusable> {
    let (of, found) = try_record(at)?.sound()?;
    if of == *key { Ok(found) } else { Err(Unusable::Other) }
}

fn try_record(at: &Path) -> Result<Record, Unusable> {
    if std::fs::metadata(at)?.len() > FILE_BYTES_MAX {
        return Err(Unusable::TooLarge);
    }
    let text = std::fs::read_to_string(at)?;
    // Of another version everything else may be different.
    let version = toml::from_str::<Version>(&text)?.version;
    if version != VERSION {
        return Err(Unusable::Version(version));
    }
    Ok(toml::from_str(&text)?)
}

/// Keeps costs below a home folder, as a server does.
#[cfg(test)]
pub(crate) fn keep_below(home: &Path, kept: &[(CostKey, KeptCost)]) {
    for (key, cost) in kept {
        keep(&home.join(FOLDER), key, cost).expect("kept");
    }
}

#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
}

/// Puts a file in place at once; names the one that could not be written.
fn keep(folder: &Path, key: &CostKey, cost: &KeptCost) -> Result<(), (PathBuf, io::Error)> {
    let at = path(folder, key);
    let write = || -> io::Result<()> {
        let text = toml::to_string(&Record::new(key, cost)).map_err(io::Error::other)?;
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.persist(&at).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| (at.clone(), error))
}

/// What a key says comes from a worker: none of it becomes part of a path.
fn path(folder: &Path, key: &CostKey) -> PathBuf {
    let CostKey { weights, device, dtype, backend, instructions } = key;
    let text = [weights, &**device, &**dtype, backend, instructions].map(|part| format!("{}:{part}", part.len()));
    folder.join(format!("{}.toml", Digest::of(text.concat().as_bytes())))
}

impl Record {
    fn new(key: &CostKey, cost: &KeptCost) -> Self {
        // A TOML number is signed.
        let number = |number: u64| number.min(i64::MAX as u64);
        Self {
            version: VERSION,
            model: cost.model.to_string(),
            batches: number(cost.batches),
            weights: key.weights.clone(),
            device: key.device.to_string(),
            dtype: key.dtype.to_string(),
            backend: key.backend.clone(),
            instructions: key.instructions.clone(),
            base_ns: number(cost.cost.base_ns),
            row_ns: number(cost.cost.row_ns),
            token_ps: number(cost.cost.token_ps),
            token_squared_fs: number(cost.cost.token_squared_fs),
        }
    }

    /// What it is about, and what it says, if that can be.
    fn sound(self) -> Result<(CostKey, KeptCost), Unusable> {
        let Self { base_ns, row_ns, token_ps, token_squared_fs, .. } = self;
        let cost = BatchCost { base_ns, row_ns, token_ps, token_squared_fs };
        let is_sound = |nanos: u64| nanos <= NANOS_MAX;
        let are_sound = is_sound(base_ns) && is_sound(row_ns) && is_sound(token_ps / 1_000);
        if !are_sound || !is_sound(token_squared_fs / 1_000_000) || cost == BatchCost::default() {
            return Err(Unusable::Number);
        }
        let key = CostKey {
            weights: self.weights,
            device: self.device.as_str().into(),
            dtype: self.dtype.as_str().into(),
            backend: self.backend,
            instructions: self.instructions,
        };
        Ok((key, KeptCost { model: self.model.as_str().into(), cost, batches: self.batches }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> CostKey {
        CostKey {
            weights: "ab".into(),
            device: "cpu (a processor), 4 threads".into(),
            dtype: "bf16".into(),
            backend: "cpu".into(),
            instructions: "avx512-bf16".into(),
        }
    }

    fn cost(base_ns: u64) -> KeptCost {
        let cost = BatchCost { base_ns, row_ns: 2, token_ps: 3, token_squared_fs: 4 };
        KeptCost { model: "m".into(), cost, batches: 17 }
    }

    #[test]
    fn what_is_kept_is_found_again_under_the_very_same_key() {
        let folder = tempfile::tempdir().expect("folder");
        let folder = folder.path().join("costs");
        keep(&folder, &key(), &cost(1_000)).expect("kept");
        keep(&folder, &key(), &cost(2_000)).expect("kept in its place");
        assert_eq!(read(&path(&folder, &key()), &key()), Some(cost(2_000)));
        assert_eq!(std::fs::read_dir(&folder).expect("folder").count(), 1, "nothing else is left");
        for other in [
            CostKey { weights: "a".into(), ..key() },
            CostKey { device: "cpu (a processor), 8 threads".into(), ..key() },
            CostKey { dtype: "f32".into(), ..key() },
            CostKey { backend: "candle".into(), ..key() },
            CostKey { instructions: "avx2".into(), ..key() },
        ] {
            assert_eq!(read(&path(&folder, &other), &other), None, "{other:?}");
        }
    }

    #[test]
    fn a_file_that_is_of_no_use_says_why() {
        let folder = tempfile::tempdir().expect("folder");
        let at = path(folder.path(), &key());
        keep(folder.path(), &key(), &cost(1_000)).expect("kept");
        let good = std::fs::read_to_string(&at).expect("text");
        let huge = "#".repeat(FILE_BYTES_MAX as usize + 1);
        for (text, why) in [
            (good.replace("version = 1", "version = 2"), "its version is 2, not 1"),
            ("version = 9\nwhat = \"else\"".to_owned(), "its version is 9, not 1"),
            (good.replace("bf16\"", "f32\""), "it is about something else"),
            (good.replace("base_ns = 1000", "base_ns = 9000000000000000"), "a number in it is beyond all measure"),
            (good.replace("base_ns = 1000", "base_ns = -1"), "invalid value"),
            (good.replace("base_ns = 1000", ""), "missing field `base_ns`"),
            (good[..good.len() / 2].to_owned(), ""),
            (String::new(), "missing field `version`"),
            (huge, "it is larger than 65536 bytes"),
        ] {
            std::fs::write(&at, &text).expect("written");
            let error = try_read(&at, &key()).expect_err(&text).to_string();
            assert!(error.contains(why), "{error}: {text}");
            assert_eq!(read(&at, &key()), None);
        }
        std::fs::write(&at, [0xff, 0xfe, 0]).expect("written");
        assert_eq!(read(&at, &key()), None, "no text");
        keep(folder.path(), &key(), &cost(3_000)).expect("kept in the place of it");
        assert_eq!(read(&at, &key()), Some(cost(3_000)));
    }

    #[test]
    fn all_that_is_of_use_is_found_and_nothing_else() {
        let home = tempfile::tempdir().expect("folder");
        assert_eq!(all(home.path()).expect("no folder is no error"), []);
        let folder = home.path().join(FOLDER);
        let other = CostKey { device: "another".into(), ..key() };
        keep_below(home.path(), &[(key(), cost(1_000)), (other.clone(), cost(2_000))]);
        std::fs::copy(path(&folder, &key()), folder.join("copy.toml")).expect("copied");
        std::fs::write(folder.join("broken.toml"), "version = 1").expect("written");
        std::fs::write(folder.join("notes.txt"), "mine").expect("written");
        assert_eq!(all(home.path()).expect("read"), [(other, cost(2_000)), (key(), cost(1_000))]);
        std::fs::remove_dir_all(&folder).expect("removed");
        std::fs::write(&folder, "a file where the folder should be").expect("written");
        assert!(all(home.path()).is_err());
    }

    #[test]
    fn what_cannot_be_written_names_the_file() {
        let folder = tempfile::tempdir().expect("folder");
        let blocked = folder.path().join("costs");
        std::fs::write(&blocked, "a file where the folder should be").expect("written");
        let (at, _) = keep(&blocked, &key(), &cost(1)).expect_err("blocked");
        assert_eq!(at, path(&blocked, &key()));
    }

    #[test]
    fn names_of_devices_are_never_paths() {
        let evil = CostKey { device: "../../../etc/passwd".into(), weights: "/".into(), ..key() };
        let at = path(Path::new("/home/costs"), &evil);
        assert_eq!(at.parent(), Some(Path::new("/home/costs")));
    }

    #[tokio::test]
    async fn errands_are_run_in_order() {
        let home = tempfile::tempdir().expect("folder");
        let (errands, errands_in) = mpsc::unbounded_channel();
        let (driver, mut inbox) = Handle::new();
        let (done, flushed) = tokio::sync::oneshot::channel();
        for errand in [
            CostErrand::Find { model: "m".into(), key: key() },
            CostErrand::Keep { key: key(), cost: cost(1_000) },
            CostErrand::Find { model: "m".into(), key: key() },
            CostErrand::Flush { done },
        ] {
            errands.send(errand).expect("taken");
        }
        drop(errands);
        run_errands(home.path().into(), errands_in, driver).await;
        flushed.await.expect("flushed");
        for expected in [None, Some(cost(1_000))] {
            match inbox.next().await {
                Some(Event::Cost { model, key: of, found }) => {
                    assert_eq!((&*model, of, found), ("m", key(), expected));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
