//! The GPU's kernel: a block takes 256 columns of a sequence.

use crate::cuda::driver::{Argument, Kernel, Launch, Span};
use crate::cuda::element::Element;
use crate::cuda::queue::Command;
use crate::plan::Pooling;

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

/// Columns of a block.
const COLUMNS: usize = 256;
/// Threads of a block.
const THREADS: u32 = 128;

/// One row from the rows of each sequence. Of a sequence without rows it is none that is a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub(crate) sequences: usize,
    pub(crate) width: usize,
    pub(crate) element: Element,
    pub(crate) pooling: Pooling,
    /// [T, H]
    pub(crate) input: Span,
    /// [N + 1] u32
    pub(crate) splits: Span,
    /// [N, H]
    pub(crate) output: Span,
    /// What the output is: another op's input, or f32, which is handed out.
    pub(crate) into: Element,
}

impl Pool {
    pub(crate) fn command(&self) -> Command {
        let pooling = match self.pooling {
            Pooling::Mean => 0,
            Pooling::Cls => 1,
            Pooling::Max => 2,
            Pooling::Last => 3,
        };
        Command::Launch(Launch {
            kernel: Kernel::of(self.element, if self.into == Element::F32 { "pool_f32" } else { "pool_number" }),
            grid: [self.sequences as u32, self.width.div_ceil(COLUMNS) as u32, 1],
            block: THREADS,
            arguments: vec![
                Argument::Input(self.input),
                Argument::Input(self.splits),
                Argument::Output(self.output),
                Argument::integer(self.width),
                Argument::Integer(pooling),
            ],
        })
    }
}
