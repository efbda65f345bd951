//! Files that may change under a running server. They are looked at, not watched: Kubernetes swaps a link two folders
//! above what is read, which tells no watcher of the file, and a network's file system tells none at all.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::{MissedTickBehavior, interval};

use super::read_bounded;

/// How often files are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// More of a file than any that is followed may have.
const BYTES_MAX: u64 = 2 << 20;

/// What files held at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of what these files hold now; one that cannot be read counts as what is wrong with it.
    pub(crate) fn of(paths: &[PathBuf]) -> Self {
        let mut hash = Sha256::new();
        for path in paths {
            let (kind, bytes) = match read_bounded(path, BYTES_MAX) {
                Ok(bytes) => (0_u8, bytes),
                Err(problem) => (1, problem.into_bytes()),
            };
            hash.update([kind]);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(&bytes);
        }
        Self(hash.finalize().into())
    }
}

/// What was read: what can be taken up, and what is wrong, of which there may be both.
pub(crate) type Reading<T, E> = (Option<T>, Option<E>);

/// All or nothing.
pub(crate) fn whole<T, E>(read: Result<T, E>) -> Reading<T, E> {
    match read {
        Ok(new) => (Some(new), None),
        Err(problem) => (None, Some(problem)),
    }
}

/// Looks at these files for as long as it runs. Once they are no more what was `seen`, they are read, and `changed` is told
/// what came of that. While something is wrong they are read again each time, as it may have been the reading that
/// failed; that is told once something else comes of it.
pub(crate) async fn follow<T, E>(
    paths: Vec<PathBuf>,
    seen: Fingerprint,
    read: impl Fn() -> Reading<T, E> + Send + Sync + 'static,
    mut changed: impl FnMut(Reading<T, E>),
) where
    T: Send + 'static,
    E: Clone + PartialEq + Send + 'static,
{
    let (paths, read) = (Arc::new(paths), Arc::new(read));
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut told) = (seen, None);
    loop {
        tick.tick().await;
        let (paths, read, is_broken) = (paths.clone(), read.clone(), told.is_some());
        let look = move || {
            // First: what changes while the files are read is found again.
            let now = Fingerprint::of(&paths);
            (is_broken || now != seen).then(|| (now, read()))
        };
        // A disk may be slow, or on a network: those who serve calls do not wait for it.
        let Ok(looked) = tokio::task::spawn_blocking(look).await else { return };
        let Some((now, (new, problem))) = looked else { continue };
        if now != seen || problem != told {
            (seen, told) = (now, problem.clone());
            changed((new, problem));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_read_is_read_again_and_told_once() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let paths = vec![file.path().to_owned()];
        let seen = Fingerprint::of(&paths);
        std::fs::write(file.path(), "new").expect("write");
        let times = Arc::new(AtomicUsize::new(0));
        let read = {
            let times = times.clone();
            // As a disk does that fails for a while.
            move || match times.fetch_add(1, Ordering::Relaxed) {
                0..=2 => (None, Some("no")),
                3 => (None, Some("not yet")),
                time => (Some(time), None),
            }
        };
        let told = Arc::new(Mutex::new(Vec::new()));
        let changed = {
            let told = told.clone();
            move |reading| told.lock().expect("unpoisoned").push(reading)
        };
        let following = follow(paths, seen, read, changed);
        assert!(tokio::time::timeout(20 * INTERVAL, following).await.is_err(), "it follows on");
        let expected = [(None, Some("no")), (None, Some("not yet")), (Some(4), None)];
        assert_eq!(*told.lock().expect("unpoisoned"), expected);
        assert_eq!(times.load(Ordering::Relaxed), 5, "what is good is left alone");
    }
}
