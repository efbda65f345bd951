//! Batching policies in real processes.
//!
//!     cargo run --release -p shoal-benches --example policies -- real       # beside the simulator, with workers that sleep
//!     cargo run --release -p shoal-benches --example policies -- minilm     # beside each other, with a real model
//!
//! Both build `shoal`, start it as a user would, and put `shoal load` on it. What else the machine does is printed with
//! every figure. [server/docs/batching.md](../../../server/docs/batching.md) has what was found.

mod figures;
mod machine;
mod minilm;
mod real;
mod shoal;
mod table;
mod world;

use std::process::ExitCode;

use clap::Parser;

/// Measures batching policies in real processes.
#[derive(Parser)]
enum Command {
    Real(real::Options),
    Minilm(minilm::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    let is_good = match Command::parse() {
        Command::Real(options) => real::run(&options)?,
        Command::Minilm(options) => minilm::run(&options)?,
    };
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
