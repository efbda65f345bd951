//! The real binary, real workers, real sockets.

mod bad_input;
mod cli;
mod clients;
mod faults;
mod http;
mod inference;
mod minilm;
mod oip;
mod process;
mod startup;
mod tools;
