//! In place, on candle's tensors.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result};

use crate::ops::{expect_len, math, rows, values_mut, vectorize};
use crate::plan::Activation;

#[cfg(test)]
mod tests;

/// Adds a bias and applies an activation to a matrix of any number of rows.
#[derive(Debug)]
pub(crate) struct Activate {
    pub(crate) bias: Vec<f32>,
    pub(crate) activation: Activation,
}

impl InplaceOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        expect_len("activate", "the bias", self.bias.len(), layout.dims().last().copied().unwrap_or(0))?;
        let values = values_mut("activate", storage, layout)?;
        match self.activation {
            Activation::Identity => self.apply(values, |x| x),
            Activation::Gelu => self.apply(values, math::gelu),
            Activation::GeluTanh => self.apply(values, math::gelu_tanh),
            Activation::Silu => self.apply(values, math::silu),
            Activation::Relu => self.apply(values, |x| x.max(0.0)),
            Activation::Tanh => self.apply(values, math::tanh),
        }
        Ok(())
    }
}

impl Activate {
    fn apply(&self, values: &mut [f32], activation: impl Fn(f32) -> f32 + Copy + Sync) {
        rows::for_each_block(values, self.bias.len(), |_, block| {
            vectorize(
                #[inline(always)]
                || {
                    for row in block.chunks_exact_mut(self.bias.len()) {
                        for (x, bias) in row.iter_mut().zip(&self.bias) {
                            *x = activation(*x + bias);
                        }
                    }
                },
            );
        });
    }
}
