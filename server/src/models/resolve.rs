//! From a source to what a worker is told to load.

use std::path::{Path, PathBuf};

use super::progress::OnProgress;
use super::pull::PullError;
use super::source::Source;
use super::store::Store;
use super::synthetic::Synthetic;

/// A source a worker on this machine can load.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Where the worker reads it.
    pub place: Place,
    /// The same for people, in one line.
    pub description: String,
}

/// Where a worker on this machine reads a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// A folder in Hugging Face layout.
    Folder(PathBuf),
    /// The built-in echo model.
    Echo,
    /// The built-in synthetic model.
    Synthetic(Synthetic),
}

/// Finds a model's files, pulling them if need be. Blocks, with the network only for what was never pulled.
///
/// A folder must hold `config.json`, `tokenizer.json` and `model.safetensors`; whether their content is sound is for
/// [`check`](super::check::check) or the worker to say.
pub fn resolve(source: &Source, store: &Store, on: OnProgress<'_>) -> Result<Resolved, ResolveError> {
    match source {
        Source::Folder(path) => {
            let folder = find_folder(path)?;
            let description = format!("folder {}", folder.display());
            in_folder(&folder, description)
        }
        Source::Catalogue(entry) => {
            let folder = store.pull(entry, on)?;
            in_folder(&folder, format!("{} in {}", entry.title, folder.display()))
        }
        Source::Hub(hub) => {
            let folder = store.pull_hub(hub, on)?;
            in_folder(&folder, format!("{source} in {}", folder.display()))
        }
        Source::Echo => Ok(built_in(Place::Echo, source)),
        Source::Synthetic(options) => Ok(built_in(Place::Synthetic(*options), source)),
    }
}

/// The folder a source means: `~` expanded, absolute, and with the files no model is without.
fn find_folder(path: &Path) -> Result<PathBuf, ResolveError> {
    let expanded = expand(path)?;
    let folder = expanded
        .canonicalize()
        .map_err(|error| ResolveError::NoFolder { folder: expanded.clone(), reason: error.to_string() })?;
    if !folder.is_dir() {
        return Err(ResolveError::NoFolder { folder, reason: "it is a file".to_owned() });
    }
    let missing: Vec<&str> = super::REQUIRED.into_iter().filter(|file| !folder.join(file).is_file()).collect();
    if missing.is_empty() { Ok(folder) } else { Err(ResolveError::Lacks { folder, missing: missing.join(", ") }) }
}

/// With a leading `~` made the home folder.
pub(super) fn expand(path: &Path) -> Result<PathBuf, ResolveError> {
    match path.strip_prefix("~") {
        Ok(rest) => Ok(etcetera::home_dir().map_err(|_| ResolveError::NoHome)?.join(rest)),
        Err(_) => Ok(path.to_owned()),
    }
}

fn in_folder(folder: &Path, description: String) -> Result<Resolved, ResolveError> {
    // The link carries paths as text.
    folder.to_str().ok_or_else(|| ResolveError::NotUtf8 { folder: folder.to_owned() })?;
    Ok(Resolved { place: Place::Folder(folder.to_owned()), description })
}

fn built_in(place: Place, written: &Source) -> Resolved {
    Resolved { place, description: format!("built-in {written}") }
}

/// Why there is nothing to load.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error("no folder {}: {reason}", folder.display())]
    NoFolder { folder: PathBuf, reason: String },
    #[error("{} lacks {missing}; a model's folder has {}", folder.display(), super::REQUIRED.join(", "))]
    Lacks { folder: PathBuf, missing: String },
    #[error("the path {} is not valid UTF-8", folder.display())]
    NotUtf8 { folder: PathBuf },
    #[error("`~` cannot be expanded, since no home folder is known")]
    NoHome,
}

#[cfg(test)]
mod tests;
