//! The descriptor set is what reflection serves: it must hold every service, and every file those need.

#![expect(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::FileDescriptorSet;

fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(shoal_proto::DESCRIPTORS).unwrap()
}

#[test]
fn every_service_is_in_the_set() {
    let set = descriptors();
    let services: BTreeSet<String> = set
        .file
        .iter()
        .flat_map(|file| file.service.iter().map(|service| format!("{}.{}", file.package(), service.name())))
        .collect();
    let expected = [
        "externalscaler.ExternalScaler",
        "inference.GRPCInferenceService",
        "shoal.link.v1.WorkerLink",
        "shoal.v1.Admin",
        "shoal.v1.Inference",
    ];
    assert_eq!(services, expected.map(String::from).into());
}

#[test]
fn every_imported_file_is_in_the_set() {
    let set = descriptors();
    let names: BTreeSet<&str> = set.file.iter().map(|file| file.name()).collect();
    for file in &set.file {
        for import in &file.dependency {
            assert!(names.contains(import.as_str()), "{} imports {import}, which is not there", file.name());
        }
    }
    assert!(names.contains("google/protobuf/duration.proto"), "{names:?}");
}

#[test]
fn every_proto_file_of_the_folder_is_in_the_set() {
    let set = descriptors();
    let names: BTreeSet<&str> = set.file.iter().map(|file| file.name()).collect();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut folders = vec![root.clone()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "proto") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                assert!(names.contains(name.as_str()), "{name} is not compiled: add it to build.rs");
                seen += 1;
            }
        }
    }
    assert!(seen >= 5, "only {seen} files found");
}
