//! The GPU's kernel: a warp takes a row, all of it in registers.

use crate::cuda::driver::{Argument, Kernel, Launch, Span};
use crate::cuda::element::Element;
use crate::cuda::queue::Command;
use crate::plan::NormKind;

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

/// Rows of a block.
pub(crate) const ROWS: usize = 4;

/// A norm as kernels take it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    /// [H] f32
    pub(crate) gain: Span,
    /// [H] f32
    pub(crate) shift: Option<Span>,
    pub(crate) epsilon: f32,
}

/// `output[r] = norm(input[r] + residual[r])`
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddNorm {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) element: Element,
    /// [R, H]
    pub(crate) input: Span,
    /// [R, H]
    pub(crate) residual: Option<Span>,
    pub(crate) norm: Norm,
    /// [R, H]; may be the input or the residual.
    pub(crate) output: Span,
}

impl AddNorm {
    /// The kernel for rows of a width, if there is one.
    pub(crate) fn kernel(width: usize) -> Option<&'static str> {
        const NAMES: [&str; 5] = ["add_norm_256", "add_norm_512", "add_norm_768", "add_norm_1024", "add_norm_2048"];
        width_class(width).map(|class| NAMES[class])
    }

    /// # Panics
    /// If there is no kernel for its width.
    pub(crate) fn command(&self) -> Command {
        Command::Launch(Launch {
            kernel: Kernel::of(self.element, Self::kernel(self.width).expect("plans are checked for kernels")),
            grid: [self.rows.div_ceil(ROWS) as u32, 1, 1],
            block: 32 * ROWS as u32,
            arguments: [Argument::Input(self.input), Argument::optional(self.residual)]
                .into_iter()
                .chain(Norm::arguments(Some(&self.norm)))
                .chain([Argument::Output(self.output), Argument::integer(self.rows), Argument::integer(self.width)])
                .collect(),
        })
    }
}

impl Norm {
    /// Gain, shift, epsilon and kind; where there is no norm, no gain.
    pub(crate) fn arguments(norm: Option<&Self>) -> [Argument; 4] {
        let Some(norm) = norm else {
            return [Argument::Nothing, Argument::Nothing, Argument::Real(0.0), Argument::Integer(0)];
        };
        let kind = match norm.kind {
            NormKind::Layer => 0,
            NormKind::Rms => 1,
        };
        let (gain, shift) = (Argument::Input(norm.gain), Argument::optional(norm.shift));
        [gain, shift, Argument::Real(norm.epsilon), Argument::Integer(kind)]
    }
}

/// Which of the kernels holds such a row in a warp's registers with the fewest of them.
pub(crate) fn width_class(width: usize) -> Option<usize> {
    let widest = [256, 512, 768, 1024, 2048];
    widest.into_iter().position(|widest| width <= widest).filter(|_| width > 0 && width.is_multiple_of(8))
}
