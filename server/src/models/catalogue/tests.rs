use std::path::{Component, Path};

use super::{ENTRIES, Mirror, digest_of, find};
use crate::models::{Digest, HubRepository, ModelName, WEIGHTS};

#[test]
fn minilm_is_the_model_both_mirrors_publish() {
    let minilm = find("minilm").unwrap();
    let weights = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";
    assert_eq!(minilm.weights().unwrap().to_string(), weights);
    assert_eq!(minilm.mirrors.len(), 2);
}

#[test]
fn every_entry_is_named_complete_and_safe_to_unpack() {
    for entry in ENTRIES {
        entry.name.parse::<ModelName>().unwrap();
        assert_eq!(find(entry.name), Some(entry));
        assert_eq!(entry.files.last().unwrap().path, WEIGHTS, "weights are fetched last");
        for needed in crate::models::REQUIRED {
            assert!(entry.files.iter().any(|file| file.path == needed), "{} lacks {needed}", entry.name);
        }
        for file in entry.files {
            let plain = Path::new(file.path).components().all(|part| matches!(part, Component::Normal(_)));
            assert!(plain && file.size > 0, "{file:?}");
        }
    }
}

#[test]
fn every_hub_mirror_names_a_commit_and_not_a_branch() {
    for mirror in ENTRIES.iter().flat_map(|entry| entry.mirrors) {
        if let Mirror::Hub { repository, revision } = mirror {
            assert!(HubRepository::is_commit(revision), "{repository}@{revision}");
        }
    }
}

#[test]
fn the_digest_is_that_of_a_sorted_sha256sum_listing() {
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let listing = format!("{a}  a.json\n{b}  b.json\n");
    assert_eq!(digest_of([("b.json", b), ("a.json", a)].into_iter()), Digest::of(listing.as_bytes()));
}
