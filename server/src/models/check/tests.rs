use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Check, FindError, check};
use crate::models::{Inspect, Inspection, PullSettings, REQUIRED, Source, Store};

/// A worker to whom every folder is a model with three words.
const CONTENT: Inspect = Inspect { check: content, plan: |_, _| Err("nobody asks".to_owned()) };

fn content(_: &Path) -> Inspection {
    Inspection { facts: vec!["a model".to_owned()], problems: Vec::new(), vocabulary: Some(3) }
}

/// The files of a model; what only the worker reads of them is not there.
fn write_model(folder: &Path) {
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2}, "unk_token": "[UNK]"},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
    fs::write(folder.join("model.safetensors"), "").unwrap();
}

fn check_folder(folder: &Path, inspect: Inspect) -> Check {
    let store = Store::new(folder.join("home"), PullSettings::default());
    check(&Source::Folder(folder.to_owned()), &store, inspect).unwrap()
}

/// The one problem of a model in which one thing was changed.
fn problem_after(change: impl FnOnce(&Path), inspect: Inspect) -> String {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    change(folder.path());
    let check = check_folder(folder.path(), inspect);
    assert_eq!(check.problems.len(), 1, "{check}");
    check.problems[0].clone()
}

#[test]
fn a_sound_folder_has_facts_and_no_problems() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let check = check_folder(folder.path(), CONTENT);
    let path = folder.path().canonicalize().unwrap();
    assert_eq!(check.to_string(), format!("{}\n  a model\n  tokenizer of 3 words\n  no problems\n", path.display()));
}

#[test]
fn what_the_worker_says_names_files_below_the_folder() {
    let refusing = |folder: &Path| Inspection {
        facts: vec!["half a model".to_owned()],
        problems: vec![format!("{}/config.json: `hidden_act` is mish", folder.display())],
        vocabulary: None,
    };
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let check = check_folder(folder.path(), Inspect { check: refusing, ..CONTENT });
    let expected =
        "  half a model\n  tokenizer of 3 words\n  problem: config.json: `hidden_act` is mish\n  1 problem\n";
    assert!(check.to_string().ends_with(expected), "{check}");
}

#[test]
fn tells_a_tokenizer_of_another_model() {
    let larger = |folder: &Path| {
        let path = folder.join("tokenizer.json");
        let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        tokenizer["model"]["vocab"]["z"] = 30521.into();
        fs::write(path, tokenizer.to_string()).unwrap();
    };
    assert_eq!(
        problem_after(larger, CONTENT),
        "tokenizer.json: vocabulary: expected ids below vocab_size 3 of config.json, found id 30521; \
         the tokenizer is of another model"
    );
    let broken = problem_after(|folder| fs::write(folder.join("tokenizer.json"), "{}").unwrap(), CONTENT);
    assert!(broken.starts_with("tokenizer.json: expected a tokenizer that loads, found "), "{broken}");
}

#[test]
fn a_file_that_is_missing_is_told_once_with_what_to_do() {
    // A worker for whom it is missing as well.
    let all = |folder: &Path| {
        let line = |file: &str| format!("{}/{file}: not found", folder.display());
        Inspection { problems: REQUIRED.map(line).into(), ..content(folder) }
    };
    let inspect = Inspect { check: all, ..CONTENT };
    let problems = |file: &str| {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path());
        fs::remove_file(folder.path().join(file)).unwrap();
        check_folder(folder.path(), inspect).problems
    };
    assert_eq!(problems("config.json"), ["config.json: expected a file, found none"]);
    assert_eq!(problems("model.safetensors"), ["model.safetensors: expected a file, found none"]);
    let found = problems("tokenizer.json");
    assert_eq!(found.iter().filter(|line| line.starts_with("tokenizer.json")).count(), 1, "{found:?}");
    let rename = |folder: &Path| {
        fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    };
    let found = problem_after(rename, inspect);
    assert!(found.ends_with("pytorch_model.bin is not read; save the model as one model.safetensors"), "{found}");
}

#[test]
fn does_not_pull_what_is_to_be_checked() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::new(home.path(), PullSettings::default());
    let check_text = |text: &str| check(&text.parse().unwrap(), &store, CONTENT);
    assert_eq!(check_text("minilm"), Err(FindError::NotPulled { model: "minilm".into() }));
    assert_eq!(check_text("hf:a/b"), Err(FindError::NotPulled { model: "hf:a/b@main".into() }));
    assert_eq!(check_text("echo"), Err(FindError::BuiltIn { model: "echo".into() }));
    assert!(matches!(check_text("/no/such/folder"), Err(FindError::NoFolder { .. })));
}
