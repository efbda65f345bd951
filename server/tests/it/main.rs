//! The real binary, real workers, real sockets.

mod cli;
mod clients;
mod faults;
mod inference;
mod minilm;
mod oip;
mod process;
mod tools;
