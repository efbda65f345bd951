//! The GPU's kernel: a warp takes a row.

use crate::cuda::driver::{Argument, Kernel, Launch, Span};
use crate::cuda::element::Element;
use crate::cuda::queue::Command;
use crate::ops::normalize::cuda::{Norm, ROWS, width_class};

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

/// Rows of `width`, one for each id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Embed {
    pub(crate) tokens: usize,
    pub(crate) width: usize,
    pub(crate) element: Element,
    /// [T] u32
    pub(crate) ids: Span,
    /// [T] u32: places in their sequences
    pub(crate) places: Span,
    /// [T] u32; none is type 0 everywhere.
    pub(crate) types: Option<Span>,
    /// [V, H]
    pub(crate) words: Span,
    /// [P, H]
    pub(crate) positions: Option<Span>,
    /// [S, H]
    pub(crate) kinds: Option<Span>,
    pub(crate) norm: Option<Norm>,
    /// [T, H]
    pub(crate) output: Span,
}

impl Embed {
    /// The kernel for rows of a width, if there is one.
    pub(crate) fn kernel(width: usize) -> Option<&'static str> {
        const NAMES: [&str; 5] = ["embed_256", "embed_512", "embed_768", "embed_1024", "embed_2048"];
        width_class(width).map(|class| NAMES[class])
    }

    /// # Panics
    /// If there is no kernel for its width.
    pub(crate) fn command(&self) -> Command {
        Command::Launch(Launch {
            kernel: Kernel::of(self.element, Self::kernel(self.width).expect("plans are checked for kernels")),
            grid: [self.tokens.div_ceil(ROWS) as u32, 1, 1],
            block: 32 * ROWS as u32,
            arguments: [
                Argument::Input(self.ids),
                Argument::Input(self.places),
                Argument::optional(self.types),
                Argument::Input(self.words),
                Argument::optional(self.positions),
                Argument::optional(self.kinds),
            ]
            .into_iter()
            .chain(Norm::arguments(self.norm.as_ref()))
            .chain([Argument::Output(self.output), Argument::integer(self.tokens), Argument::integer(self.width)])
            .collect(),
        })
    }
}
