//! The whole worker against a server of the test's own, over a Unix socket.

#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that is not as it should be")]

mod begun;
mod server;
#[expect(dead_code, reason = "the crate's own tests use the rest")]
#[path = "../../src/model/testing.rs"]
mod tiny;

mod batches;
mod connection;
mod gpu;
mod models;
#[cfg(target_os = "linux")]
mod process;
mod several;
