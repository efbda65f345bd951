//! The folder pulled models lie in.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;

use super::catalogue::Entry;
use super::progress::OnProgress;
use super::pull::{self, PullError, PullSettings};
use super::shelf::Shelf;
use super::source::HubRepository;

/// Pulled models, and how more are fetched.
#[derive(Clone, Debug)]
pub struct Store {
    home: PathBuf,
    settings: PullSettings,
}

impl Store {
    /// At `$SHOAL_HOME`, or in the platform's cache folder (`~/.cache/shoal`), with settings from the environment.
    pub fn from_env() -> Result<Self, HomeError> {
        let home = match std::env::var_os("SHOAL_HOME").filter(|home| !home.is_empty()) {
            Some(home) => PathBuf::from(home),
            None => etcetera::choose_base_strategy().map_err(|_| HomeError)?.cache_dir().join("shoal"),
        };
        Ok(Self::new(home, PullSettings::from_env()))
    }

    /// At a folder, which need not exist yet.
    pub fn new(home: impl Into<PathBuf>, settings: PullSettings) -> Self {
        Self { home: home.into(), settings }
    }

    /// The folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Where an entry lies, if it was pulled.
    pub fn find(&self, entry: &Entry) -> Option<PathBuf> {
        self.entry_shelf(entry).find(entry.digest())
    }

    /// Where a repository lies, if it was pulled.
    pub fn find_hub(&self, hub: &HubRepository) -> Option<PathBuf> {
        self.hub_shelf(hub).find_revision(hub.revision())
    }

    /// Where an entry lies, pulling it if need be. Blocks.
    pub fn pull(&self, entry: &Entry, on: OnProgress<'_>) -> Result<PathBuf, PullError> {
        pull::pull_entry(entry, &self.entry_shelf(entry), &self.settings, on)
    }

    /// Where a repository lies, pulling it if need be. Blocks.
    pub fn pull_hub(&self, hub: &HubRepository, on: OnProgress<'_>) -> Result<PathBuf, PullError> {
        pull::pull_hub(hub, &self.hub_shelf(hub), &self.settings, on)
    }

    fn entry_shelf(&self, entry: &Entry) -> Shelf {
        self.shelf(entry.name)
    }

    /// `org--name`: no part of a repository's name has two hyphens in a row, nor has an entry's.
    fn hub_shelf(&self, hub: &HubRepository) -> Shelf {
        self.shelf(&hub.repository().replace('/', "--"))
    }

    fn shelf(&self, name: &str) -> Shelf {
        Shelf::new(self.home.join("models").join(name))
    }
}

/// There is nowhere to put models.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("no home folder is known to keep models in; set SHOAL_HOME to a folder")]
pub struct HomeError;
