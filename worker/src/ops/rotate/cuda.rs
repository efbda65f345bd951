//! The GPU's kernel: a warp takes some heads of a token, a thread eight numbers of each half of one.

use crate::cuda::driver::{Argument, Kernel, Launch, Span};
use crate::cuda::element::Element;
use crate::cuda::queue::Command;
use crate::ops::normalize::cuda::Norm;
use crate::plan::Heads;

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

/// Tokens, and warps, of a block.
const ROWS: usize = 8;
/// Threads of a warp.
const WARP: usize = 32;
/// Numbers of a head that are one thread's.
const EACH: usize = 16;
/// The widest heads.
const WIDTH_MAX: usize = 128;

/// Queries and keys turned by the places of their tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotate {
    pub(crate) tokens: usize,
    pub(crate) heads: Heads,
    pub(crate) element: Element,
    /// Of a head of queries and one of keys.
    pub(crate) norms: Option<[Norm; 2]>,
    /// [D/2] f32: `base^(-2d/D)`
    pub(crate) frequencies: Span,
    /// [T, Q]
    pub(crate) qkv: Span,
    /// [T] u32: places in their sequences, below 100,000
    pub(crate) places: Span,
    /// [T, Q]; may be `qkv`, whose values then stay where they are.
    pub(crate) output: Span,
}

impl Rotate {
    /// Whether there is a kernel for heads of a width.
    pub(crate) fn takes(width: usize) -> bool {
        (EACH..=WIDTH_MAX).contains(&width) && width.is_multiple_of(EACH)
    }

    pub(crate) fn command(&self) -> Command {
        let Heads { count, shared, width } = self.heads;
        let written = count + if self.output == self.qkv { shared } else { 2 * shared };
        let lanes = (width / EACH).next_power_of_two();
        let [queries, keys] = self.norms.map_or([None; 2], |norms| norms.map(Some));
        Command::Launch(Launch {
            kernel: Kernel::of(self.element, "rotate"),
            grid: [self.tokens.div_ceil(ROWS) as u32, written.div_ceil(WARP / lanes) as u32, 1],
            block: (WARP * ROWS) as u32,
            arguments: [self.qkv, self.places, self.frequencies]
                .map(Argument::Input)
                .into_iter()
                .chain(Norm::arguments(queries.as_ref()))
                .chain(Norm::arguments(keys.as_ref()))
                .chain([Argument::Output(self.output)])
                .chain([self.tokens, count, shared, written, width, lanes].map(Argument::integer))
                .collect(),
        })
    }
}
