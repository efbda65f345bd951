//! The GPU's kernel: a thread takes eight numbers.

use crate::cuda::driver::{Argument, Kernel, Launch, Span};
use crate::cuda::element::Element;
use crate::cuda::queue::Command;
use crate::plan::Activation;

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

/// Threads of a block.
const THREADS: usize = 256;
/// Numbers of a thread.
const EACH: usize = 8;

/// `output[r, i] = activation(input[r, i]) · input[r, W + i]`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    pub(crate) rows: usize,
    /// W, a multiple of 8
    pub(crate) width: usize,
    pub(crate) element: Element,
    pub(crate) activation: Activation,
    /// [R, 2W]
    pub(crate) input: Span,
    /// [R, W]
    pub(crate) output: Span,
}

impl Gate {
    /// Whether there is a kernel for outputs of a width.
    pub(crate) fn takes(width: usize) -> bool {
        width.is_multiple_of(EACH)
    }

    pub(crate) fn command(&self) -> Command {
        let kernel = match self.activation {
            Activation::Identity => "gate_identity",
            Activation::Gelu => "gate_gelu",
            Activation::GeluTanh => "gate_gelu_tanh",
            Activation::Silu => "gate_silu",
            Activation::Relu => "gate_relu",
            Activation::Tanh => "gate_tanh",
        };
        Command::Launch(Launch {
            kernel: Kernel::of(self.element, kernel),
            grid: [(self.rows * self.width).div_ceil(THREADS * EACH) as u32, 1, 1],
            block: THREADS as u32,
            arguments: vec![
                Argument::Input(self.input),
                Argument::Output(self.output),
                Argument::integer(self.rows),
                Argument::integer(self.width),
            ],
        })
    }
}
