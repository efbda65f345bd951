use std::path::PathBuf;

use super::{HubRepository, Source, SourceError};
use crate::models::Synthetic;

fn parse(text: &str) -> Result<Source, SourceError> {
    text.parse()
}

#[test]
fn takes_anything_with_a_slash_for_a_folder() {
    for text in ["./x", "/x", "~/x", "x/y", "../x", ".", "..", "~", "minilm/", "/a/hf:b@c"] {
        assert_eq!(parse(text), Ok(Source::Folder(PathBuf::from(text))), "{text}");
    }
}

#[test]
fn reads_hub_repositories_with_and_without_a_revision() {
    let hub = |text: &str| match parse(text) {
        Ok(Source::Hub(hub)) => (hub.repository().to_owned(), hub.revision().to_owned()),
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(hub("hf:BAAI/bge-small-en-v1.5"), ("BAAI/bge-small-en-v1.5".into(), "main".into()));
    assert_eq!(hub("hf:org/name@refs/pr/1"), ("org/name".into(), "refs/pr/1".into()));
}

#[test]
fn refuses_repositories_that_could_leave_the_hubs_paths() {
    for text in
        ["hf:", "hf:name", "hf:a/b/c", "hf:../b", "hf:a/..", "hf:a/b c", "hf:a/", "hf:/a", "hf:a/b?c", "hf:a/b..c"]
    {
        assert!(matches!(parse(text), Err(SourceError::Repository { .. })), "{text}: {:?}", parse(text));
    }
    for text in ["hf:a/b@", "hf:a/b@../../c", "hf:a/b@x//y", "hf:a/b@x y", "hf:a/b@c@d", "hf:a/b@.git"] {
        assert!(matches!(parse(text), Err(SourceError::Revision { .. })), "{text}: {:?}", parse(text));
    }
}

#[test]
fn tells_a_commit_from_a_branch() {
    assert!(HubRepository::is_commit("c9745ed1d9f207416be6d2e6f8de32d1f16199bf"));
    assert!(!HubRepository::is_commit("main"));
    assert!(!HubRepository::is_commit("C9745ED1D9F207416BE6D2E6F8DE32D1F16199BF"));
}

#[test]
fn knows_the_built_in_models_and_the_catalogue() {
    assert_eq!(parse("echo"), Ok(Source::Echo));
    assert_eq!(parse("synthetic"), Ok(Source::Synthetic(Synthetic::default())));
    let faulty = Synthetic { faults: true, ..Synthetic::default() };
    assert_eq!(parse("synthetic:faults"), Ok(Source::Synthetic(faulty)));
    assert!(matches!(parse("minilm"), Ok(Source::Catalogue(entry)) if entry.name == "minilm"));
}

#[test]
fn names_the_nearest_entry() {
    let error = parse("minilmm").unwrap_err();
    assert_eq!(error, SourceError::Unknown { found: "minilmm".into(), near: "minilm".into() });
    assert_eq!(parse("ecko"), Err(SourceError::Unknown { found: "ecko".into(), near: "echo".into() }));
}

#[test]
fn says_what_is_wrong_with_the_rest() {
    assert_eq!(parse(""), Err(SourceError::Empty));
    assert_eq!(parse("echo:x=1"), Err(SourceError::EchoOptions));
    assert!(matches!(parse("https://huggingface.co/a/b"), Err(SourceError::Url { .. })));
    assert!(matches!(parse("~root/x"), Err(SourceError::Tilde { .. })));
    assert!(matches!(parse("synthetic:base=soon"), Err(SourceError::Synthetic(_))));
}

#[test]
fn reads_back_what_it_writes() {
    for text in ["/x", "~/x", ".", "hf:a/b@v1", "minilm", "echo", "synthetic", "synthetic:base=3ms+faults"] {
        let source = parse(text).unwrap();
        assert_eq!(parse(&source.to_string()), Ok(source), "{text}");
    }
    let bare = Source::Folder(PathBuf::from("models"));
    assert_eq!(bare.to_string(), "./models");
}
