use std::convert::Infallible;
use std::path::Path;

use super::*;

fn key() -> Key {
    Key::new("attend-sm_90", ["source", "header", "--std=c++17", "sm_90", "13.0"])
}

/// Compiles to `payload`, once.
fn compiles(payload: &[u8]) -> impl FnOnce() -> Result<Vec<u8>, Infallible> {
    move || Ok(payload.to_vec())
}

fn never() -> Result<Vec<u8>, Infallible> {
    panic!("it is kept, and need not be compiled")
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn cuda_cache_keeps_what_was_compiled_for_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("not/yet/there");
    assert_eq!(KernelCache::new(&folder).find_or(&key(), compiles(b"code")), Ok(b"code".to_vec()));
    assert_eq!(KernelCache::new(&folder).find_or(&key(), never), Ok(b"code".to_vec()));
    assert_eq!(names(&folder), [key().0], "and nothing besides lies there");
}

#[test]
fn cuda_cache_keeps_an_empty_payload_apart_from_a_cut_one() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::new(folder.path());
    assert_eq!(cache.find_or(&key(), compiles(b"")), Ok(Vec::new()));
    assert_eq!(cache.find_or(&key(), never), Ok(Vec::new()));
}

#[test]
fn cuda_cache_compiles_anew_what_was_cut_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::new(folder.path());
    let payload: Vec<u8> = (0..100).collect();
    cache.find_or(&key(), compiles(&payload)).unwrap();
    let whole = fs::read(cache.path(&key())).unwrap();
    for length in 0..whole.len() {
        fs::write(cache.path(&key()), &whole[..length]).unwrap();
        assert_eq!(cache.find(&key()), None, "{length} bytes of {}", whole.len());
        assert!(!cache.path(&key()).exists(), "what is damaged goes away");
        assert_eq!(cache.find_or(&key(), compiles(&payload)).as_ref(), Ok(&payload));
    }
    assert_eq!(cache.find_or(&key(), never), Ok(payload));
}

#[test]
fn cuda_cache_compiles_anew_what_has_a_wrong_byte_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::new(folder.path());
    cache.find_or(&key(), compiles(b"some code")).unwrap();
    let whole = fs::read(cache.path(&key())).unwrap();
    for at in 0..whole.len() {
        let mut wrong = whole.clone();
        wrong[at] ^= 0x10;
        fs::write(cache.path(&key()), wrong).unwrap();
        assert_eq!(cache.find(&key()), None, "byte {at}");
    }
    fs::write(cache.path(&key()), [&whole[..], b"more"].concat()).unwrap();
    assert_eq!(cache.find(&key()), None, "with more at its end");
}

#[test]
fn cuda_cache_goes_on_where_nothing_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let cache = KernelCache::new(file.join("kernels"));
    for _ in 0..2 {
        assert_eq!(cache.find_or(&key(), compiles(b"code")), Ok(b"code".to_vec()));
    }
    assert!(cache.is_warned.into_inner());
}

#[test]
fn cuda_cache_leaves_no_partial_file_where_an_entry_cannot_be_put() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::new(folder.path());
    fs::create_dir(cache.path(&key())).unwrap();
    assert_eq!(cache.find_or(&key(), compiles(b"code")), Ok(b"code".to_vec()));
    assert_eq!(names(folder.path()), [key().0]);
}

#[test]
fn cuda_cache_keeps_nothing_of_what_does_not_compile() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::new(folder.path());
    assert_eq!(cache.find_or(&key(), || Err("a mistake")), Err("a mistake"));
    assert_eq!(cache.find_or(&key(), compiles(b"code")), Ok(b"code".to_vec()));
}

#[test]
fn cuda_cache_names_differ_wherever_the_code_could() {
    let parts = ["source", "header", "--std=c++17", "sm_90", "13.0"];
    for at in 0..parts.len() {
        let mut other = parts;
        other[at] = "other";
        assert_ne!(Key::new("attend-sm_90", other), key(), "{other:?}");
    }
    assert_ne!(Key::new("a", ["bc", "d"]), Key::new("a", ["b", "cd"]));
    assert_ne!(Key::new("a", ["b", ""]), Key::new("a", ["b"]));
    assert_eq!(Key::new("attend-sm_90", parts), key());
}
