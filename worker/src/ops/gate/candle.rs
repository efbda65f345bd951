//! On candle's tensors.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};

use crate::ops::{math, rows, values, vectorize};
use crate::plan::Activation;

#[cfg(test)]
mod tests;

/// Multiplies the activated first half of each row with its second.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) activation: Activation,
}

impl CustomOp1 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (count, wide) = layout.shape().dims2()?;
        if wide % 2 != 0 {
            bail!("gate: rows of {wide} have no halves");
        }
        let x = values("gate", storage, layout)?;
        let mut y = vec![0.0; count * (wide / 2)];
        match self.activation {
            Activation::Identity => gate(x, &mut y, wide / 2, |x| x),
            Activation::Gelu => gate(x, &mut y, wide / 2, math::gelu),
            Activation::GeluTanh => gate(x, &mut y, wide / 2, math::gelu_tanh),
            Activation::Silu => gate(x, &mut y, wide / 2, math::silu),
            Activation::Relu => gate(x, &mut y, wide / 2, |x| x.max(0.0)),
            Activation::Tanh => gate(x, &mut y, wide / 2, math::tanh),
        }
        Ok((CpuStorage::F32(y), (count, wide / 2).into()))
    }
}

fn gate(x: &[f32], y: &mut [f32], width: usize, activation: impl Fn(f32) -> f32 + Copy + Sync) {
    rows::for_each_block(y, width, |first, block| {
        let x = &x[2 * first * width..];
        vectorize(
            #[inline(always)]
            || {
                for (y, x) in block.chunks_exact_mut(width).zip(x.chunks_exact(2 * width)) {
                    let (gated, by) = x.split_at(width);
                    for ((y, x), by) in y.iter_mut().zip(gated).zip(by) {
                        *y = activation(*x) * by;
                    }
                }
            },
        );
    });
}
