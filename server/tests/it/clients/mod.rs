//! Clients that others wrote, and the examples that the documentation shows, against the real binary.
//!
//! A test whose client is not installed says that it was skipped; see [`crate::tools`].

mod examples;
mod ghz;
mod grpcurl;
mod health_probe;
mod perf_analyzer;
mod tritonclient;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;
use tokio::time::timeout;

use crate::process::{PATIENCE, Shoal};

/// The repository, where the files are that clients are given.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// A client to be run from the repository's folder.
fn client(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.current_dir(repository()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a client to its end.
async fn run(command: &mut Command) -> Output {
    let ended = timeout(PATIENCE, command.output()).await;
    let output = ended.unwrap_or_else(|_| panic!("{command:?} did not end"));
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a client that must succeed, and returns what it printed.
async fn succeed(command: &mut Command) -> String {
    let output = run(command).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Calls that the server's own metrics count as answered well.
fn answered(shoal: &Shoal, model: &str) -> u64 {
    let counter = format!("shoal_calls_total{{model=\"{model}\",code=\"OK\"}} ");
    let (_, page) = shoal.page("/metrics");
    // Without a first call there is no counter.
    page.lines().find_map(|line| line.strip_prefix(&counter)).map_or(0, |value| value.parse().expect("a count"))
}
