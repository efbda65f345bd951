//! The real binary, real workers, real sockets.

mod bad_input;
mod cli;
mod clients;
mod costs;
mod demand;
mod endurance;
mod explain;
mod faults;
mod gpus;
mod hosts;
mod http;
mod inference;
mod interleavings;
mod leaks;
mod minilm;
mod models;
mod oip;
mod overload;
mod plan;
mod process;
mod reload;
mod restarts;
mod startup;
mod tasks;
mod tools;
mod traffic;
