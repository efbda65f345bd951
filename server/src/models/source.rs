//! Where a model's weights come from, parsed from text.
//!
//! Parsing touches neither disk nor network; [`resolve`](super::resolve) does.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::catalogue::{self, Entry};
use super::name::{ModelName, NameError};
use super::synthetic::{Synthetic, SyntheticError};

/// Where a model comes from.
///
/// | text | meaning |
/// |---|---|
/// | `./x`, `/x`, `~/x`, anything else with a `/` | a folder in Hugging Face layout |
/// | `hf:org/name`, `hf:org/name@revision` | a repository on the Hugging Face hub; `main` unless stated |
/// | `minilm` | an entry of the catalogue |
/// | `echo` | the built-in model that returns its input |
/// | `synthetic`, `synthetic:base=2ms+faults` | the built-in model that only takes time, see [`Synthetic`] |
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum Source {
    /// A folder, as written; `~` is not expanded yet.
    Folder(PathBuf),
    /// A repository on the hub.
    Hub(HubRepository),
    /// An entry of the catalogue.
    Catalogue(&'static Entry),
    /// Returns its input.
    Echo,
    /// Only takes time.
    Synthetic(Synthetic),
}

/// `org/name` at a revision: a branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubRepository {
    repository: String,
    revision: String,
}

impl HubRepository {
    /// The branch that is meant when none is named.
    pub const REVISION: &str = "main";
    const PART_MAX: usize = 96;
    const REVISION_MAX: usize = 128;

    /// `org/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// A branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Whether `revision` is a full commit, which never moves, unlike a branch or a tag.
    pub fn is_commit(revision: &str) -> bool {
        revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    }
}

/// Reads `org/name` or `org/name@revision`.
impl FromStr for HubRepository {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, Self::REVISION));
        let plain = |part: &str| {
            (1..=Self::PART_MAX).contains(&part.len())
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
                && !part.contains("..")
                && !part.contains("--")
        };
        match repository.split_once('/') {
            Some((organisation, name)) if plain(organisation) && plain(name) => {}
            _ => return Err(SourceError::Repository { found: repository.to_owned() }),
        }
        let sound = (1..=Self::REVISION_MAX).contains(&revision.len())
            && revision.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
            && revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
            && !revision.contains("..");
        if !sound {
            return Err(SourceError::Revision { found: revision.to_owned() });
        }
        Ok(Self { repository: repository.to_owned(), revision: revision.to_owned() })
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        if let Some(repository) = text.strip_prefix("hf:") {
            return Ok(Self::Hub(repository.parse()?));
        }
        if let Some(options) = text.strip_prefix("synthetic:") {
            return Ok(Self::Synthetic(options.parse()?));
        }
        match text {
            "" => Err(SourceError::Empty),
            "echo" => Ok(Self::Echo),
            "synthetic" => Ok(Self::Synthetic(Synthetic::default())),
            _ if text.starts_with("echo:") => Err(SourceError::EchoOptions),
            _ if text.contains("://") => Err(SourceError::Url { found: text.to_owned() }),
            _ if text.contains('/') || matches!(text, "." | ".." | "~") => Self::folder(text),
            _ => match catalogue::find(text) {
                Some(entry) => Ok(Self::Catalogue(entry)),
                None => Err(SourceError::unknown(text)),
            },
        }
    }
}

impl Source {
    /// What a name means when no source is given: itself.
    pub fn of_name(name: &ModelName) -> Result<Self, SourceError> {
        name.as_str().parse()
    }

    fn folder(text: &str) -> Result<Self, SourceError> {
        let of_another_user = text.starts_with('~') && text != "~" && !text.starts_with("~/");
        if of_another_user {
            return Err(SourceError::Tilde { found: text.to_owned() });
        }
        Ok(Self::Folder(PathBuf::from(text)))
    }
}

impl TryFrom<String> for Source {
    type Error = SourceError;

    fn try_from(text: String) -> Result<Self, SourceError> {
        text.parse()
    }
}

/// Reading it back gives the same source, as long as a folder's path is valid UTF-8.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", Written(path)),
            Self::Hub(hub) => write!(f, "hf:{}@{}", hub.repository, hub.revision),
            Self::Catalogue(entry) => f.write_str(entry.name),
            Self::Echo => f.write_str("echo"),
            Self::Synthetic(options) if *options == Synthetic::default() => f.write_str("synthetic"),
            Self::Synthetic(options) => write!(f, "synthetic:{options}"),
        }
    }
}

/// A folder's path, with a slash in it so that it is read as a folder.
struct Written<'a>(&'a Path);

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string_lossy();
        let marked = text.contains('/') || matches!(&*text, "." | ".." | "~");
        write!(f, "{}{text}", if marked { "" } else { "./" })
    }
}

/// Why a text is no source.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SourceError {
    #[error("the source is empty; it is a folder, hf:org/name, a catalogue entry, `echo` or `synthetic`")]
    Empty,
    #[error(
        "`{found}` is not in the catalogue; the nearest entry is `{near}` (`shoal models list` shows all). \
         A folder is written with a slash, as in `./{found}`"
    )]
    Unknown { found: String, near: String },
    #[error("`hf:{found}` is no repository; write hf:org/name or hf:org/name@revision")]
    Repository { found: String },
    #[error("`{found}` is no revision; it is a branch, a tag or a commit, as in hf:org/name@main")]
    Revision { found: String },
    #[error(
        "`{found}`: URLs are no sources; write hf:org/name for the Hugging Face hub, or pull the files into a folder"
    )]
    Url { found: String },
    #[error("`{found}`: only your own home is understood, as in `~/models`")]
    Tilde { found: String },
    #[error("`echo` takes no options")]
    EchoOptions,
    #[error(transparent)]
    Synthetic(#[from] SyntheticError),
    #[error(transparent)]
    Name(#[from] NameError),
}

impl SourceError {
    fn unknown(text: &str) -> Self {
        let known = catalogue::ENTRIES.iter().map(|entry| entry.name).chain(["echo", "synthetic"]);
        Self::Unknown { found: text.to_owned(), near: super::nearest(text, known) }
    }
}

#[cfg(test)]
mod tests;
