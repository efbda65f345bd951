//! The real binary, real workers, real sockets.

mod cli;
mod endurance;
mod faults;
mod inference;
mod interleavings;
mod leaks;
mod minilm;
mod oip;
mod overload;
mod process;
mod restarts;
#[expect(dead_code, reason = "the first tests that need a tool follow")]
mod tools;
mod traffic;
