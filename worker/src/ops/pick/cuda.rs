//! The GPU's kernel: a block takes a row.

use crate::cuda::driver::{Argument, Kernel, Launch, Span};
use crate::cuda::element::Element;
use crate::cuda::queue::Command;

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

/// Threads of a block.
const THREADS: u32 = 64;
/// What a thread copies at a time.
const PIECE_BYTES: usize = 16;

/// `output[m] = input[marks[m]]`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pick {
    pub(crate) marks: usize,
    /// Rows are a multiple of 16 bytes.
    pub(crate) width: usize,
    pub(crate) element: Element,
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
            kernel: Kernel::plain("pick"),
            grid: [self.marks as u32, 1, 1],
            block: THREADS,
            arguments: vec![
                Argument::Input(self.input),
                Argument::Input(self.list),
                Argument::Output(self.output),
                Argument::integer(self.width * self.element.bytes() / PIECE_BYTES),
            ],
        })
    }
}
