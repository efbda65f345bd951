//! Which weights a source has: what is known of a model is known of its weights.

use super::WEIGHTS;
use super::check;
use super::digest::Digest;
use super::shelf::Manifest;
use super::source::Source;
use super::store::Store;

/// The SHA-256 of a source's weights, if its files are here or pinned. Reads them where nothing says it. Pulls nothing.
pub fn sha256_of(source: &Source, store: &Store) -> Option<Digest> {
    if let Source::Catalogue(entry) = source {
        return entry.files.iter().find(|file| file.path == WEIGHTS).map(|file| file.sha256);
    }
    let folder = check::find(source, store).ok()?;
    let pulled = Manifest::read(&folder).and_then(|manifest| Some(manifest.files.get(WEIGHTS)?.sha256));
    pulled.or_else(|| Digest::of_file(&folder.join(WEIGHTS)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::PullSettings;

    #[test]
    fn weights_are_those_of_the_file_or_those_that_are_pinned() {
        let home = tempfile::tempdir().expect("folder");
        let store = Store::new(home.path(), PullSettings::default());
        let folder = home.path().join("model");
        let source: Source = folder.to_str().expect("path").parse().expect("source");
        assert_eq!(sha256_of(&source, &store), None);
        std::fs::create_dir(&folder).expect("folder");
        std::fs::write(folder.join(WEIGHTS), "weights").expect("written");
        assert_eq!(sha256_of(&source, &store), Some(Digest::of(b"weights")));
        let pinned = sha256_of(&"minilm".parse().expect("source"), &store);
        assert!(pinned.is_some(), "it need not be here");
        for built_in in ["echo", "synthetic"] {
            assert_eq!(sha256_of(&built_in.parse().expect("source"), &store), None);
        }
    }
}
