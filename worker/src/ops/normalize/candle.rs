//! In place, on candle's tensors.

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, bail};

use crate::ops::{expect_len, math, rows, values, values_mut, vectorize};
use crate::plan::NormKind;

#[cfg(test)]
mod tests;

/// A norm and what it learnt.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    pub(crate) gain: Vec<f32>,
    /// Zeros for a norm that has none.
    pub(crate) shift: Vec<f32>,
    pub(crate) epsilon: f32,
}

impl Norm {
    /// Normalises one row in place: to mean 0 and variance 1, or to a mean square of 1; then gain and shift.
    #[inline(always)]
    pub(crate) fn apply(&self, row: &mut [f32]) {
        let width = row.len() as f32;
        let mean = match self.kind {
            NormKind::Layer => math::sum(row, |x| x) / width,
            NormKind::Rms => 0.0,
        };
        let variance = math::sum(row, |x| (x - mean) * (x - mean)) / width;
        let scale = 1.0 / (variance + self.epsilon).sqrt();
        for ((x, gain), shift) in row.iter_mut().zip(&self.gain).zip(&self.shift) {
            *x = ((*x - mean) * scale).mul_add(*gain, *shift);
        }
    }
}

/// Normalises the rows of a matrix [T, H], after adding another if there is one.
#[derive(Debug)]
pub(crate) struct AddNormalize {
    pub(crate) norm: Norm,
}

impl InplaceOp1 for AddNormalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, x_l: &Layout) -> Result<()> {
        let width = self.norm.gain.len();
        expect_len("normalize", "a row", x_l.dims().last().copied().unwrap_or(0), width)?;
        rows::for_each_block(values_mut("normalize", x, x_l)?, width, |_, block| {
            vectorize(
                #[inline(always)]
                || block.chunks_exact_mut(width).for_each(|row| self.norm.apply(row)),
            );
        });
        Ok(())
    }
}

impl InplaceOp2 for AddNormalize {
    fn name(&self) -> &'static str {
        "add-normalize"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, x_l: &Layout, residual: &CpuStorage, residual_l: &Layout) -> Result<()> {
        let width = self.norm.gain.len();
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
                        for (x, residual) in row.iter_mut().zip(residual) {
                            *x += residual;
                        }
                        self.norm.apply(row);
                    }
                },
            );
        });
        Ok(())
    }
}
