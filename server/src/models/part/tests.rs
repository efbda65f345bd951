use std::fs;
use std::io::{self, Read};

use super::{Part, PartError, Pin, WantedFile, part_path};
use crate::models::Digest;

fn wanted(bytes: &[u8]) -> WantedFile {
    let pin = Pin { size: bytes.len() as u64, sha256: Digest::of(bytes) };
    WantedFile { path: "model.safetensors", pin: Some(pin), required: true }
}

/// Yields some bytes, then breaks.
struct Breaking<'a>(&'a [u8]);

impl Read for Breaking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::other("gone")),
            n => Ok(n),
        }
    }
}

#[test]
fn goes_on_where_a_broken_transfer_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("sub/file");
    let wanted = wanted(b"one two three");

    let mut part = Part::open(&target, &wanted).unwrap();
    assert!(matches!(part.append(Breaking(b"one "), |_| {}), Err(PartError::Cut(_))));
    drop(part);
    assert!(!target.exists());

    let mut part = Part::open(&target, &wanted).unwrap();
    assert_eq!(part.length(), 4);
    let mut told = 0;
    part.append(&b"two three"[..], |n| told += n).unwrap();
    let received = part.finish(&target, wanted.pin).unwrap();
    assert_eq!((told, received.size), (9, 13));
    assert_eq!(fs::read(&target).unwrap(), b"one two three");
    assert!(!part_path(&target).exists());
}

#[test]
fn deletes_what_is_not_as_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let wanted = wanted(b"right");
    for (bytes, expected) in [(&b"wrong"[..], "SHA-256"), (b"rig", "3 bytes")] {
        let mut part = Part::open(&target, &wanted).unwrap();
        part.append(bytes, |_| {}).unwrap();
        let error = part.finish(&target, wanted.pin).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!target.exists() && !part_path(&target).exists());
    }
}

#[test]
fn writes_no_more_than_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let mut part = Part::open(&target, &wanted(b"12345")).unwrap();
    assert!(matches!(part.append(&b"123456"[..], |_| {}), Err(PartError::TooLong { max: 5 })));
    assert!(fs::metadata(part_path(&target)).unwrap().len() <= 5);
}

#[test]
fn forgets_a_part_that_is_already_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    fs::write(part_path(&target), b"left by something else").unwrap();
    assert_eq!(Part::open(&target, &wanted(b"12345")).unwrap().length(), 0);
}
