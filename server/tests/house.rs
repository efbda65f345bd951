//! The house's rules that no compiler knows: who may name whom, and what may never come back.

use std::fs;
use std::path::{Path, PathBuf};

/// Every Rust file below a folder of the workspace, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(folder);
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("text");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

/// Lines of code (not of comments) in `folder` that name one of `banned`.
fn naming(folder: &str, banned: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources(folder) {
        for (number, line) in (1..).zip(text.lines()) {
            let is_comment = line.trim_start().starts_with("//");
            if !is_comment && banned.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    found
}

#[test]
fn the_driver_knows_no_wire() {
    let found = naming("server/src/driver", &["tonic", "prost", "shoal_proto"]);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_services_never_name_the_schedulers_machine() {
    for folder in ["server/src/rpc", "server/src/http", "server/src/frontend"] {
        let found = naming(folder, &["Scheduler", "scheduler::Input", "scheduler::Output"]);
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn the_wires_know_nothing_of_each_other() {
    let grpc = ["tonic", "prost", "shoal_proto", "crate::rpc"];
    let mut found = naming("server/src/http", &grpc);
    found.extend(naming("server/src/rpc", &["crate::http"]));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn what_the_wires_share_knows_neither() {
    for folder in ["server/src/frontend", "server/src/listen"] {
        let found = naming(folder, &["tonic", "prost", "shoal_proto", "axum", "crate::rpc", "crate::http"]);
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn only_main_knows_the_worker() {
    let found = naming("server/src", &["shoal_worker"]);
    let elsewhere: Vec<_> = found.iter().filter(|line| !line.contains("src/main.rs:")).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
}

#[test]
fn the_worker_names_the_wire_only_in_its_link() {
    let found = naming("worker/src", &["shoal_proto"]);
    let elsewhere: Vec<_> = found.iter().filter(|line| !line.contains("worker/src/link")).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
}

/// It decides about nobody's request, but for whose turn it is on a device that servers share.
#[test]
fn the_worker_names_the_scheduler_only_where_servers_share_it() {
    let found = naming("worker/src", &["shoal_scheduler"]);
    let places = ["worker/src/session/", "worker/src/link/convert"];
    let elsewhere: Vec<_> = found.iter().filter(|line| !places.iter().any(|place| line.contains(place))).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
}

#[test]
fn the_server_names_the_links_wire_only_in_its_link() {
    let found = naming("server/src", &["shoal_proto::link"]);
    let elsewhere: Vec<_> = found.iter().filter(|line| !line.contains("server/src/link")).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
}

/// The time of day can be set, and steps when it is: nothing may be decided by it. These only tell it to people.
#[test]
fn nothing_depends_on_the_time_of_day() {
    const TELL: [&str; 6] = [
        "server/src/oip/statistics",
        "server/src/rpc/oip.rs:",
        "server/src/http/mod.rs:",
        "server/src/traces/clock.rs:",
        "server/src/metrics/latency.rs:",
        "server/src/tls/validity.rs:",
    ];
    for folder in ["proto/src", "scheduler/src", "worker/src", "server/src"] {
        let found = naming(folder, &["SystemTime", "UNIX_EPOCH", "chrono::", "clock_gettime", "ClockId"]);
        let deciding: Vec<_> = found.iter().filter(|line| !TELL.iter().any(|file| line.contains(file))).collect();
        assert!(deciding.is_empty(), "{deciding:#?}");
    }
}

#[test]
fn nothing_is_left_open() {
    for folder in ["proto/src", "scheduler/src", "scheduler/sim/src", "worker/src", "server/src"] {
        let found = naming(folder, &["todo!(", "unimplemented!(", "FIXME", "#[allow("]);
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn the_top_level_is_the_one_in_the_readme() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut names: Vec<String> = fs::read_dir(root)
        .expect("the workspace")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    names.sort();
    let expected = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "benches",
        "helm",
        "proto",
        "scheduler",
        "server",
        "worker",
    ];
    assert_eq!(names, expected);
}
