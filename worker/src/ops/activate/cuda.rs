//! The GPU's kernel: a block takes a row, in place. For activations that a product's epilogue has not.

use crate::cuda::driver::{Argument, Epilogue, Kernel, Launch, Span};
use crate::cuda::element::Element;
use crate::cuda::queue::Command;
use crate::plan::Activation;

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

/// Threads of a block.
const THREADS: u32 = 128;

/// `x[r] = activation(x[r] + bias) + residual[r]`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activate {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) element: Element,
    /// [R, L], L any
    pub(crate) matrix: Span,
    /// [L]
    pub(crate) bias: Option<Span>,
    /// [R, L]
    pub(crate) residual: Option<Span>,
    pub(crate) activation: Activation,
}

impl Activate {
    pub(crate) fn command(&self) -> Command {
        let kernel = match self.activation {
            Activation::Identity => "activate_identity",
            Activation::Gelu => "activate_gelu",
            Activation::GeluTanh => "activate_gelu_tanh",
            Activation::Silu => "activate_silu",
            Activation::Relu => "activate_relu",
            Activation::Tanh => "activate_tanh",
        };
        Command::Launch(Launch {
            kernel: Kernel::of(self.element, kernel),
            grid: [self.rows as u32, 1, 1],
            block: THREADS,
            arguments: vec![
                Argument::Output(self.matrix),
                Argument::optional(self.bias),
                Argument::optional(self.residual),
                Argument::integer(self.width),
            ],
        })
    }
}

/// What a product does of an activation, and what is left to be done after it. cublasLt's GELU is the one by tanh. What
/// it adds a residual to is not activated yet.
pub(crate) fn split(activation: Activation, has_residual: bool) -> (Epilogue, Option<Activation>) {
    match activation {
        Activation::Identity => (Epilogue::Identity, None),
        Activation::Relu if !has_residual => (Epilogue::Relu, None),
        Activation::GeluTanh if !has_residual => (Epilogue::GeluTanh, None),
        other => (Epilogue::Identity, Some(other)),
    }
}
