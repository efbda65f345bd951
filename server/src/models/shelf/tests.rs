use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use super::{Manifest, ManifestFile, Shelf};
use crate::models::Digest;

fn manifest(files: &[(&str, &[u8])]) -> Manifest {
    let file = |bytes: &[u8]| ManifestFile { size: bytes.len() as u64, sha256: Digest::of(bytes) };
    Manifest {
        source: "hf:a/b".into(),
        mirror: "m".into(),
        commit: None,
        files: files.iter().map(|(path, bytes)| ((*path).to_owned(), file(bytes))).collect::<BTreeMap<_, _>>(),
    }
}

fn stage(staging: &Path, files: &[(&str, &[u8])]) {
    for (path, bytes) in files {
        let path = staging.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn finds_only_what_was_completed() {
    let home = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(home.path().join("m"));
    let files: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("1_Pooling/config.json", b"[]")];
    let manifest = manifest(&files);
    let digest = manifest.digest();
    assert_eq!(shelf.find(digest), None);

    let lock = shelf.lock(Duration::ZERO, || {}).unwrap();
    let staging = shelf.staging(&digest.short());
    stage(&staging, &files);
    assert_eq!(shelf.find(digest), None, "files alone do not make a folder complete");

    let folder = shelf.complete(&lock, &staging, &manifest).unwrap();
    assert_eq!(shelf.find(digest), Some(folder.clone()));
    assert_eq!(Manifest::read(&folder), Some(manifest));
    assert!(!staging.exists());

    fs::write(folder.join("config.json"), "{ ").unwrap();
    assert_eq!(shelf.find(digest), Some(folder.clone()), "the content is not read again");
    fs::write(folder.join("config.json"), "").unwrap();
    assert_eq!(shelf.find(digest), None, "a file was cut");
}

#[test]
fn a_revision_leads_to_the_folder_it_stood_for() {
    let home = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(home.path().join("a--b"));
    let lock = shelf.lock(Duration::ZERO, || {}).unwrap();
    let files: [(&str, &[u8]); 1] = [("config.json", b"{}")];
    let manifest = manifest(&files);
    let staging = shelf.staging("refs/pr/1");
    stage(&staging, &files);
    let folder = shelf.complete(&lock, &staging, &manifest).unwrap();
    assert_eq!(shelf.find_revision("refs/pr/1"), None);
    shelf.point(&lock, "refs/pr/1", manifest.digest()).unwrap();
    assert_eq!(shelf.find_revision("refs/pr/1"), Some(folder));
}

#[test]
fn the_second_process_waits_and_gives_up_in_bounded_time() {
    let home = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(home.path().join("m"));
    let lock = shelf.lock(Duration::ZERO, || panic!("nobody holds it")).unwrap();

    let error = shelf.lock(Duration::ZERO, || {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);

    let (waiting, is_waiting) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| shelf.lock(Duration::from_secs(60), move || waiting.send(()).unwrap()));
        is_waiting.recv().unwrap();
        drop(lock);
        second.join().unwrap().unwrap();
    });
}

#[test]
fn sweeps_away_what_a_killed_pip_left() {
    let home = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(home.path().join("m"));
    let lock = shelf.lock(Duration::ZERO, || {}).unwrap();
    let left = shelf.pip_folder(&lock).unwrap().keep();
    let staging = shelf.staging("main");
    fs::create_dir_all(&staging).unwrap();
    shelf.sweep(&lock).unwrap();
    assert!(!left.exists() && staging.exists());
}
