//! TLS, certificates, tokens and rights, with real processes; and workers and servers of another version.

mod link;
mod rights;
mod skew;
mod tls;

use std::path::Path;

use crate::process::{Shoal, shoal};

/// Starts a server whose workers dial in, and returns it with the address that they dial. It serves once one did.
fn waiting_for_workers(home: &Path, args: &[&str]) -> (Shoal, String) {
    let mut command = shoal(home);
    command.args(["serve", "--workers", "external", "--link-port", "0", "--grpc-port", "0", "--metrics-port", "0"]);
    command.args(args);
    let mut server = Shoal::spawn(command);
    let dial = server.line_with("workers dial ");
    let address = dial.split_whitespace().last().expect("an address").to_owned();
    (server, address)
}

/// Starts a worker with these arguments.
fn worker(home: &Path, address: &str, args: &[&str]) -> Shoal {
    let mut command = shoal(home);
    command.args(["worker", "--connect", address]).args(args);
    Shoal::spawn(command)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
