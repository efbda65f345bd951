//! The real binary, real workers, real sockets.

mod cli;
mod endurance;
mod faults;
mod inference;
mod minilm;
mod oip;
mod process;
mod restarts;
#[expect(dead_code, reason = "the first tests that need a tool follow")]
mod tools;
mod traffic;
