//! The GPU's kernel: a block takes a row.

use super::Best;
use crate::cuda::driver::{Argument, Kernel, Launch, Span};
use crate::cuda::queue::Command;

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

/// Threads of a block.
const THREADS: u32 = 512;
/// A warp keeps an entry a lane.
pub(crate) const COUNT_MAX: usize = 32;

/// `output[m]` = the best of `logits[m]`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Top {
    pub(crate) rows: usize,
    /// V
    pub(crate) vocabulary: usize,
    /// Entries of each row: 1 to [`COUNT_MAX`], and V at most.
    pub(crate) count: usize,
    /// [M, V] f32
    pub(crate) logits: Span,
    /// [M, 2 + 2 · count] of 4 bytes each, to be [`read`].
    pub(crate) output: Span,
}

impl Top {
    pub(crate) fn command(&self) -> Command {
        Command::Launch(Launch {
            kernel: Kernel::plain("top"),
            grid: [self.rows as u32, 1, 1],
            block: THREADS,
            arguments: vec![
                Argument::Input(self.logits),
                Argument::Output(self.output),
                Argument::integer(self.vocabulary),
                Argument::integer(self.count),
            ],
        })
    }
}

/// Bytes of the output of a row.
pub(crate) fn bytes(count: usize) -> usize {
    (2 + 2 * count) * size_of::<u32>()
}

/// The rows of an output.
pub(crate) fn read(output: &[u8], count: usize) -> impl Iterator<Item = Best> {
    output.chunks_exact(bytes(count)).map(|row| {
        let (words, _) = row.as_chunks::<4>();
        let real = |word: [u8; 4]| f32::from_le_bytes(word);
        let (pairs, _) = words[2..].as_chunks::<2>();
        let entries = pairs.iter().map(|[id, logit]| (u32::from_le_bytes(*id), real(*logit))).collect();
        Best { largest: real(words[0]), sum: real(words[1]), entries }
    })
}
