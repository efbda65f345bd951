//! Files that may change under a running server. They are looked at, not watched: Kubernetes swaps a link two folders
//! above what is read, which tells no watcher of the file, and a network's file system tells none at all.

use std::path::PathBuf;
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

/// Looks at these files for as long as it runs, and says when they are no more what was `seen`.
pub(crate) async fn follow(paths: Vec<PathBuf>, mut seen: Fingerprint, mut changed: impl FnMut()) {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let paths = paths.clone();
        // A disk may be slow, or on a network.
        let Ok(now) = tokio::task::spawn_blocking(move || Fingerprint::of(&paths)).await else { return };
        if now != seen {
            seen = now;
            changed();
        }
    }
}
