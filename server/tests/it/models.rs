//! What the binary says of models' folders, which its worker reads: the tiny checkpoints of every architecture and head.

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::shoal;

/// Where the worker's tests keep them.
fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/tests/fixtures/tiny").canonicalize().expect("fixtures")
}

/// What `shoal models` prints, if it succeeds; else what it printed and the error.
fn models(args: &[&str]) -> Result<String, String> {
    let home = tempfile::tempdir().expect("folder");
    let output = shoal(home.path()).arg("models").args(args).output().expect("shoal runs");
    let text = String::from_utf8(output.stdout).expect("text");
    if output.status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&output.stderr)) }
}

/// A copy of a checkpoint, to be changed.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    for entry in fs::read_dir(tiny().join(name)).expect("fixture") {
        let path = entry.expect("entry").path();
        if path.is_file() {
            fs::copy(&path, folder.path().join(path.file_name().expect("name"))).expect("copied");
        }
    }
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn finds_no_problem_with_any_architecture_and_head() {
    let folders: Vec<PathBuf> =
        fs::read_dir(tiny()).expect("fixtures").map(|entry| entry.expect("entry").path()).collect();
    let folders: Vec<&str> = folders.iter().filter(|path| path.is_dir()).map(|path| text(path)).collect();
    assert!(folders.len() >= 25, "{folders:?}");
    let told = models(&[&["check"], &folders[..]].concat()).unwrap_or_else(|told| panic!("{told}"));
    assert_eq!(told.matches("  no problems\n").count(), folders.len(), "{told}");
    for fact in [
        "  xlm-roberta, 1 layer, 32 dimensions, 2 heads\n",
        "  classify: 3 labels (negative, neutral, positive), softmax over all\n",
        "  rerank: one score for a pair of texts, sigmoid of each\n",
        "  fill-mask: the mask is [MASK], id 4\n",
        "  embed: mean pooling, normalised\n",
        "  96 tokens at most, ids below 120\n",
    ] {
        assert!(told.contains(fact), "{fact}: {told}");
    }
}

#[test]
fn tells_every_problem_on_one_line_with_the_file() {
    let folder = copy("roberta-classify");
    let weights = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(weights, bytes).expect("weights");
    fs::write(folder.path().join("tokenizer.json"), "{}").expect("tokenizer");
    let told = models(&["check", text(folder.path())]).expect_err("problems");
    let problems: Vec<&str> = told.lines().filter(|line| line.contains("problem: ")).collect();
    assert_eq!(problems.len(), 2, "{told}");
    assert!(problems[0].starts_with("  problem: model.safetensors: tensor `"), "{told}");
    assert!(problems[0].contains("has NaN at ["), "{told}");
    assert!(problems[1].starts_with("  problem: tokenizer.json: expected a tokenizer that loads, found "), "{told}");
    assert!(told.ends_with("  2 problems\nshoal: problems found: 2\n"), "{told}");
}

#[test]
fn says_which_architectures_there_are() {
    let folder = copy("bert-classify");
    fs::write(folder.path().join("config.json"), r#"{"model_type": "t5", "architectures": ["T5Model"]}"#)
        .expect("config");
    let says = "config.json: architecture `T5Model` (model_type `t5`) is not supported, only BertModel, ";
    for verb in ["check", "plan"] {
        let told = models(&[verb, text(folder.path())]).expect_err("no model");
        assert!(told.contains(says), "{told}");
    }
}

#[test]
fn a_plan_fits_a_terminal_of_a_hundred_columns() {
    for (name, shows) in [
        ("bert-embed", ["embed: mean pooling, normalised", "layers 0 to 1, each on the one before", "pooled [N, 32]"]),
        ("distilbert-classify", ["distilbert, ", "attend ", "logits [N, "]),
        ("xlm-roberta-fill", ["layer 0\n", "pick ", "logits [M, 160]"]),
    ] {
        let folder = tiny().join(name);
        let plan = models(&["plan", text(&folder), "--length", "32"]).unwrap_or_else(|told| panic!("{told}"));
        assert!(plan.starts_with(&format!("{}\n", folder.display())), "{plan}");
        for shown in shows.iter().chain(&["FLOP per token", "arena    ", "N sequences of 32 tokens"]) {
            assert!(plan.contains(shown), "{shown}: {plan}");
        }
        let table = plan.lines().skip(1);
        assert!(table.clone().count() > 12 && table.clone().all(|line| line.chars().count() <= 100), "{plan}");
    }
}

#[test]
fn a_plan_of_what_was_not_pulled_says_how_to() {
    let told = models(&["plan", "minilm"]).expect_err("nothing is pulled");
    assert_eq!(told, "shoal: `minilm` was not pulled yet; `shoal models pull minilm` does\n");
}
