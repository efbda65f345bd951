//! The real binary, real workers, real sockets.

mod bad_input;
mod cli;
mod faults;
mod inference;
mod minilm;
mod oip;
mod process;
mod startup;
#[expect(dead_code, reason = "the first tests that need a tool follow")]
mod tools;
