//! Says what is wrong with a model's folder before a worker stumbles over it: one line for each problem.
//!
//! Reads configuration, the tokenizer and the header of the weights, and hashes files whose hash is known. Does not run
//! the model; a folder without problems can still hold weights that were trained badly.

mod config;
mod tokenizer;
mod weights;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use self::config::Config;
use super::digest::Digest;
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
    /// What is wrong; empty for a sound folder.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong. Shown as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Below the folder.
    pub file: String,
    /// What in the file, for example a key of its JSON or a tensor's name; empty for the file itself.
    pub key: String,
    pub expected: String,
    pub found: String,
    /// What to do about it; empty where that is plain.
    pub hint: String,
}

impl Problem {
    fn new(file: &str, key: &str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        let (file, key) = (file.to_owned(), key.to_owned());
        Self { file, key, expected: expected.into(), found: found.into(), hint: String::new() }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": expected {}, found {}", self.expected, self.found)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "; {}", self.hint) }
    }
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
pub fn check(source: &Source, store: &Store) -> Result<Check, CheckError> {
    let (folder, pins) = match source {
        Source::Folder(path) => {
            let path = expand(path).map_err(|error| CheckError::NoFolder { reason: error.to_string() })?;
            let folder = path
                .canonicalize()
                .map_err(|error| CheckError::NoFolder { reason: format!("{}: {error}", path.display()) })?;
            let pins = Manifest::read(&folder).map_or_else(Vec::new, pins_of);
            (folder, pins)
        }
        Source::Catalogue(entry) => {
            let folder = store.find(entry).ok_or_else(|| CheckError::NotPulled { model: source.to_string() })?;
            (folder, entry.files.iter().map(|file| (file.path.to_owned(), file.sha256)).collect())
        }
        Source::Hub(hub) => {
            let folder = store.find_hub(hub).ok_or_else(|| CheckError::NotPulled { model: source.to_string() })?;
            let pins = Manifest::read(&folder).map_or_else(Vec::new, pins_of);
            (folder, pins)
        }
        Source::Echo | Source::Synthetic(_) => return Err(CheckError::BuiltIn { model: source.to_string() }),
    };
    Ok(Folder::new(folder).check(&pins))
}

fn pins_of(manifest: Manifest) -> Vec<(String, Digest)> {
    manifest.files.into_iter().map(|(path, file)| (path, file.sha256)).collect()
}

/// A folder that is being checked.
struct Folder {
    path: PathBuf,
    facts: Vec<String>,
    problems: Vec<Problem>,
}

impl Folder {
    fn new(path: PathBuf) -> Self {
        Self { path, facts: Vec::new(), problems: Vec::new() }
    }

    fn check(mut self, pins: &[(String, Digest)]) -> Check {
        self.check_files();
        let config = Config::check(&mut self);
        weights::check(&mut self, config.as_ref());
        tokenizer::check(&mut self, config.as_ref());
        self.check_hashes(pins);
        Check { folder: self.path, facts: self.facts, problems: self.problems }
    }

    fn check_files(&mut self) {
        for file in super::REQUIRED {
            if self.has(file) {
                continue;
            }
            let mut problem = Problem::new(file, "", "a file", "none");
            if file == super::WEIGHTS {
                let other = ["model.safetensors.index.json", "pytorch_model.bin", "model.onnx"];
                if let Some(other) = other.into_iter().find(|other| self.has(other)) {
                    problem = problem.hint(format!("{other} is not read; save the model as one model.safetensors"));
                }
            }
            self.problems.push(problem);
        }
    }

    fn check_hashes(&mut self, pins: &[(String, Digest)]) {
        let before = self.problems.len();
        for (file, expected) in pins {
            match Digest::of_file(&self.path.join(file)) {
                Ok(found) if found == *expected => {}
                Ok(found) => {
                    let problem = Problem::new(file, "SHA-256", expected.to_string(), found.to_string());
                    self.problems.push(problem.hint("the file was changed; remove the folder and pull again"));
                }
                // A missing file that is required was told already.
                Err(_) if super::REQUIRED.contains(&file.as_str()) && !self.has(file) => {}
                Err(error) => self.problems.push(Problem::new(file, "", "a readable file", error.to_string())),
            }
        }
        if !pins.is_empty() && self.problems.len() == before {
            self.facts.push(format!("{} files are as they were pulled (SHA-256)", pins.len()));
        }
    }

    fn has(&self, file: &str) -> bool {
        self.path.join(file).is_file()
    }

    /// Reads and parses a JSON file; `None` where there is none, or a problem was noted.
    fn json(&mut self, file: &str) -> Option<serde_json::Value> {
        /// Larger than any real configuration.
        const SIZE_MAX: u64 = 4 << 20;
        let path = self.path.join(file);
        let size = fs::metadata(&path).ok()?.len();
        if size > SIZE_MAX {
            self.problems.push(Problem::new(file, "", "a configuration", format!("{size} bytes")));
            return None;
        }
        let parsed = read(&path).and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
        parsed.map_err(|error| self.problems.push(Problem::new(file, "", "valid JSON", error))).ok()
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| error.to_string())
}

/// Why there is nothing to check.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CheckError {
    #[error("no such folder: {reason}")]
    NoFolder { reason: String },
    #[error("`{model}` was not pulled yet; `shoal models pull {model}` does")]
    NotPulled { model: String },
    #[error("`{model}` is built in; it has no files")]
    BuiltIn { model: String },
}

#[cfg(test)]
mod tests;
