//! The GPU's kernel: a block takes a row.

use crate::cuda::driver::{Argument, Launch, Span};
use crate::cuda::queue::Command;

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

/// Threads of a block.
const THREADS: u32 = 64;

/// `output[m] = input[marks[m]]`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pick {
    pub(crate) marks: usize,
    pub(crate) width: usize,
    /// [T, H]
    pub(crate) input: Span,
    /// [M] u32
    pub(crate) list: Span,
    /// [M, H]
    pub(crate) output: Span,
}

impl Pick {
    pub(crate) fn command(&self) -> Command {
        Command::Launch(Launch {
            kernel: "pick",
            grid: [self.marks as u32, 1, 1],
            block: THREADS,
            arguments: vec![
                Argument::Input(self.input),
                Argument::Input(self.list),
                Argument::Output(self.output),
                Argument::integer(self.width),
            ],
        })
    }
}
