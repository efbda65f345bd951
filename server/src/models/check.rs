//! Says what is wrong with a model's folder before a worker stumbles over it: one line for each problem.
//!
//! Looks that the files are there, loads the tokenizer and hashes files whose hash is known; what the worker would say of
//! settings and weights, it is asked ([`Inspect`]). The model does not run; a folder without problems can still hold
//! weights that were trained badly.

mod tokenizer;

use std::fmt;
use std::path::PathBuf;

use super::digest::Digest;
use super::inspect::Inspect;
use super::resolve::expand;
use super::shelf::Manifest;
use super::source::Source;
use super::store::Store;

/// What was found in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The folder that was read.
    pub folder: PathBuf,
    /// What the model is, as far as it could be read: one line each.
    pub facts: Vec<String>,
    /// What is wrong, with what was expected and found: one line each, and none for a sound folder.
    pub problems: Vec<String>,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.folder.display())?;
        self.facts.iter().try_for_each(|fact| writeln!(f, "  {fact}"))?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "  problem: {problem}"))?;
        match self.problems.len() {
            0 => writeln!(f, "  no problems"),
            1 => writeln!(f, "  1 problem"),
            n => writeln!(f, "  {n} problems"),
        }
    }
}

/// Checks a folder, or what was pulled for a catalogue entry or a repository. Pulls nothing.
pub fn check(source: &Source, store: &Store, inspect: Inspect) -> Result<Check, FindError> {
    let folder = find(source, store)?;
    let pins = match source {
        Source::Catalogue(entry) => entry.files.iter().map(|file| (file.path.to_owned(), file.sha256)).collect(),
        _ => Manifest::read(&folder).map_or_else(Vec::new, pins_of),
    };
    Ok(Folder::new(folder).check(&pins, inspect))
}

/// The folder of a source, whatever is in it. Pulls nothing.
pub(super) fn find(source: &Source, store: &Store) -> Result<PathBuf, FindError> {
    let not_pulled = || FindError::NotPulled { model: source.to_string() };
    match source {
        Source::Folder(path) => {
            let path = expand(path).map_err(|error| FindError::NoFolder { reason: error.to_string() })?;
            let no_folder = |error| FindError::NoFolder { reason: format!("{}: {error}", path.display()) };
            path.canonicalize().map_err(no_folder)
        }
        Source::Catalogue(entry) => store.find(entry).ok_or_else(not_pulled),
        Source::Hub(hub) => store.find_hub(hub).ok_or_else(not_pulled),
        Source::Echo | Source::Synthetic(_) => Err(FindError::BuiltIn { model: source.to_string() }),
    }
}

fn pins_of(manifest: Manifest) -> Vec<(String, Digest)> {
    manifest.files.into_iter().map(|(path, file)| (path, file.sha256)).collect()
}

/// A folder that is being checked.
struct Folder {
    path: PathBuf,
    facts: Vec<String>,
    problems: Vec<String>,
}

impl Folder {
    fn new(path: PathBuf) -> Self {
        Self { path, facts: Vec::new(), problems: Vec::new() }
    }

    fn check(mut self, pins: &[(String, Digest)], inspect: Inspect) -> Check {
        self.check_files();
        let vocabulary = self.check_model(inspect);
        tokenizer::check(&mut self, vocabulary);
        self.check_hashes(pins);
        Check { folder: self.path, facts: self.facts, problems: self.problems }
    }

    /// What the worker says of it. Returns the size of the vocabulary, if that is known.
    fn check_model(&mut self, inspect: Inspect) -> Option<usize> {
        // A file that is missing was told already, with what to do about it.
        if !self.has(super::CONFIG) || !self.has(super::WEIGHTS) {
            return None;
        }
        let found = (inspect.check)(&self.path);
        self.facts.extend(found.facts);
        let begins = format!("{}/", self.path.display());
        let lines = found.problems.iter().map(|line| line.strip_prefix(&begins).unwrap_or(line));
        let has_tokenizer = self.has(tokenizer::FILE);
        let is_news = |line: &&str| has_tokenizer || !line.starts_with(tokenizer::FILE);
        self.problems.extend(lines.filter(is_news).map(str::to_owned));
        found.vocabulary
    }

    fn check_files(&mut self) {
        for file in super::REQUIRED {
            if self.has(file) {
                continue;
            }
            let others = ["model.safetensors.index.json", "pytorch_model.bin", "model.onnx"];
            let other = others.into_iter().find(|other| file == super::WEIGHTS && self.has(other));
            let hint = other.map(|other| format!("; {other} is not read; save the model as one model.safetensors"));
            self.problems.push(format!("{file}: expected a file, found none{}", hint.unwrap_or_default()));
        }
    }

    fn check_hashes(&mut self, pins: &[(String, Digest)]) {
        let before = self.problems.len();
        for (file, expected) in pins {
            match Digest::of_file(&self.path.join(file)) {
                Ok(found) if found == *expected => {}
                Ok(found) => self.problems.push(format!(
                    "{file}: SHA-256: expected {expected}, found {found}; the file was changed; remove the folder and \
                     pull again"
                )),
                // A missing file that is required was told already.
                Err(_) if super::REQUIRED.contains(&file.as_str()) && !self.has(file) => {}
                Err(error) => self.problems.push(format!("{file}: expected a readable file, found {error}")),
            }
        }
        if !pins.is_empty() && self.problems.len() == before {
            self.facts.push(format!("{} files are as they were pulled (SHA-256)", pins.len()));
        }
    }

    fn has(&self, file: &str) -> bool {
        self.path.join(file).is_file()
    }
}

/// Why a source has no folder to look into.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FindError {
    #[error("no such folder: {reason}")]
    NoFolder { reason: String },
    #[error("`{model}` was not pulled yet; `shoal models pull {model}` does")]
    NotPulled { model: String },
    #[error("`{model}` is built in; it has no files")]
    BuiltIn { model: String },
}

#[cfg(test)]
mod tests;
