//! The real binary, real workers, real sockets.

mod cli;
mod faults;
mod http;
mod inference;
mod minilm;
mod oip;
mod process;
mod tools;
