//! Clients that others wrote: where they are installed, and what happens without them.
//!
//! `.ci/tools` installs them into a folder that `$SHOAL_TOOLS` names: programs in `bin/`, a Python environment in
//! `python/`. Programs are found on `$PATH` as well. A test without its tool says that it was skipped, and fails where
//! `SHOAL_TEST_TOOLS=required`, as `.ci/run` sets it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A program such as `ghz`.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let own = home().map(|home| home.join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = own.into_iter().chain(std::env::split_paths(&path));
    let found = places.map(|place| place.join(name)).find(|program| program.is_file());
    found.or_else(|| missing(name))
}

/// A Python that can import `module`.
pub(crate) fn python(module: &str) -> Option<PathBuf> {
    let own = home().map(|home| home.join("python/bin/python"));
    let candidates = own.into_iter().chain([PathBuf::from("python3")]);
    let imports = |python: &PathBuf| {
        let mut command = Command::new(python);
        command.args(["-c", &format!("import {module}")]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    candidates.into_iter().find(imports).or_else(|| missing(&format!("Python's `{module}`")))
}

fn home() -> Option<PathBuf> {
    std::env::var_os("SHOAL_TOOLS").map(PathBuf::from)
}

fn missing<T>(what: &str) -> Option<T> {
    let required = std::env::var("SHOAL_TEST_TOOLS").is_ok_and(|value| value == "required");
    assert!(!required, "{what} is required and not installed; .ci/tools installs it");
    // Past the test harness, which would keep it from being seen.
    let _ = writeln!(std::io::stderr(), "SKIPPED for want of {what}: .ci/tools installs it");
    None
}
