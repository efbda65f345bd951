//! `x[t] = layer_norm(x[t] + bias + residual[t]) · gain + shift`, in place: the end of every block of an encoder.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, bail};

use super::{expect_len, math, rows, values, values_mut, vectorize};

#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;

/// What a layer norm learns.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) gain: Vec<f32>,
    pub(crate) shift: Vec<f32>,
    pub(crate) epsilon: f32,
}

impl Norm {
    /// Normalises one row in place: to mean 0 and variance 1, then gain and shift.
    #[inline(always)]
    pub(super) fn apply(&self, row: &mut [f32]) {
        let width = row.len() as f32;
        let mean = math::sum(row, |x| x) / width;
        let variance = math::sum(row, |x| (x - mean) * (x - mean)) / width;
        let scale = 1.0 / (variance + self.epsilon).sqrt();
        for ((x, gain), shift) in row.iter_mut().zip(&self.gain).zip(&self.shift) {
            *x = ((*x - mean) * scale).mul_add(*gain, *shift);
        }
    }
}

/// Adds a bias and the residual to a matrix, then normalises its rows. `x` and the residual are [T, H].
#[derive(Debug)]
pub(crate) struct AddNormalize {
    pub(crate) bias: Vec<f32>,
    pub(crate) norm: Norm,
}

impl InplaceOp2 for AddNormalize {
    fn name(&self) -> &'static str {
        "add-normalize"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, x_l: &Layout, residual: &CpuStorage, residual_l: &Layout) -> Result<()> {
        let width = self.bias.len();
        expect_len("add-normalize", "a row", x_l.dims().last().copied().unwrap_or(0), width)?;
        if x_l.dims() != residual_l.dims() {
            bail!("add-normalize: x is {:?}, the residual {:?}", x_l.dims(), residual_l.dims());
        }
        let x = values_mut("add-normalize", x, x_l)?;
        let residual = values("add-normalize", residual, residual_l)?;
        rows::for_each_block(x, width, |first, block| {
            let residual = &residual[first * width..][..block.len()];
            vectorize(
                #[inline(always)]
                || {
                    for (row, residual) in block.chunks_exact_mut(width).zip(residual.chunks_exact(width)) {
                        for ((x, residual), bias) in row.iter_mut().zip(residual).zip(&self.bias) {
                            *x += residual + bias;
                        }
                        self.norm.apply(row);
                    }
                },
            );
        });
        Ok(())
    }
}
