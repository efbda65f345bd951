//! What the compiler cannot say about the core's purity, said by reading its sources.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// All sources of the core except test modules.
fn sources() -> Vec<(PathBuf, String)> {
    let (mut folders, mut sources) = (vec![Path::new(ROOT).join("src")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources are there") {
            let path = entry.expect("the folder can be read").path();
            let is_test = path.file_stem().is_some_and(|name| name == "tests");
            if path.is_dir() && !is_test {
                folders.push(path);
            } else if path.is_file() && !is_test {
                let text = fs::read_to_string(&path).expect("sources are text");
                sources.push((path, text));
            }
        }
    }
    assert!(sources.len() > 15, "the walk found the sources");
    sources
}

/// Lines of code that hold any of these words, comments left out.
fn lines_with(words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn nothing_brings_the_standard_library_back() {
    let lib = fs::read_to_string(Path::new(ROOT).join("src/lib.rs")).unwrap();
    assert!(lib.contains("#![cfg_attr(not(test), no_std)]"));
    assert!(lib.contains("#![forbid(unsafe_code)]"));
    assert_eq!(lines_with(&["std::", "extern crate std", "use std"]), [""; 0]);
}

#[test]
fn nothing_is_depended_on() {
    let manifest = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let sections = manifest.split("\n[").filter(|section| section.contains("dependencies]"));
    let entries = sections.flat_map(|section| section.lines().skip(1));
    let entries: Vec<_> = entries.filter(|line| !line.trim().is_empty() && !line.starts_with('#')).collect();
    assert_eq!(entries, [""; 0]);
}

#[test]
fn no_order_is_decided_by_floats_or_hashes() {
    assert_eq!(lines_with(&["HashMap", "HashSet"]), [""; 0]);
    let floats = lines_with(&["f32", "f64"]).into_iter().filter(|line| !may_have_floats(line));
    assert_eq!(floats.collect::<Vec<_>>(), [""; 0]);
}

/// Learned costs, which leave as integers, and the arithmetic of capacity, which the scheduler does not know.
fn may_have_floats(line: &str) -> bool {
    line.contains("/src/cost/") || is_plan(line)
}

fn is_plan(line: &str) -> bool {
    line.contains("/src/plan.rs:") || line.contains("/src/plan/")
}

#[test]
fn nothing_is_decided_by_a_plan() {
    let named = lines_with(&["plan::"]).into_iter().filter(|line| !is_plan(line));
    assert_eq!(named.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn floats_are_only_computed_as_every_machine_does() {
    let inexact = ["sqrt", "powf", "powi", "exp(", "exp2", ".ln(", "log2(", "log10(", "mul_add", "sin(", "cos("];
    let floats = lines_with(&inexact).into_iter().filter(|line| may_have_floats(line));
    assert_eq!(floats.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn mechanism_names_no_concrete_policy() {
    let elsewhere = |line: &String| !line.contains("/src/policy/") && !line.contains("src/config.rs");
    let named: Vec<_> = lines_with(&["baseline::", "fixed::", "learned::", "triton::", "PolicyConfig::"])
        .into_iter()
        .filter(elsewhere)
        .collect();
    assert_eq!(named, [""; 0]);
}
