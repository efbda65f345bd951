//! The texts that are sent.

use std::path::{Path, PathBuf};

use crate::client::sentences;

/// Largest file of texts.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Texts of a file, one a line, empty lines left out; or the sentences that come with the program. Never empty.
pub(super) fn read(file: Option<&Path>) -> Result<Vec<String>, TextsError> {
    let Some(file) = file else {
        return Ok(sentences::all().into_iter().map(str::to_owned).collect());
    };
    let fail = |reason: String| TextsError { file: file.to_owned(), reason };
    let size = std::fs::metadata(file).map_err(|error| fail(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(fail(format!("it has {size} bytes, {FILE_BYTES_MAX} are allowed")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| fail(error.to_string()))?;
    let texts: Vec<String> = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    if texts.is_empty() { Err(fail("it has no texts".to_owned())) } else { Ok(texts) }
}

/// A file that gave no texts.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("cannot read texts from {}: {reason}", file.display())]
pub struct TextsError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn reads_one_text_a_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\n\n two \r\n").unwrap();
        assert_eq!(read(Some(file.path())).unwrap(), ["one", " two "]);
        std::fs::write(file.path(), "\n\n").unwrap();
        assert!(read(Some(file.path())).unwrap_err().to_string().ends_with("it has no texts"));
        assert!(read(Some("/no/such/file".as_ref())).unwrap_err().to_string().contains("/no/such/file"));
    }

    #[test]
    fn has_sentences_of_its_own() {
        assert!(read(None).unwrap().len() >= 300);
    }
}
