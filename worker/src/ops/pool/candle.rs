//! On candle's tensors.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};

use crate::ops::{expect_len, values, vectorize};
use crate::plan::Pooling;

#[cfg(test)]
mod tests;

/// Pools each sequence of a packed matrix.
#[derive(Debug)]
pub(crate) struct Pool<'a> {
    pub(crate) pooling: Pooling,
    /// Where sequences begin and, last, where they end. No sequence is empty.
    pub(crate) splits: &'a [usize],
}

impl CustomOp1 for Pool<'_> {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = layout.shape().dims2()?;
        expect_len("pool", "the last split", self.splits.last().copied().unwrap_or(0), tokens)?;
        let x = values("pool", storage, layout)?;
        let sequences = self.splits.len().saturating_sub(1);
        let mut y = Vec::with_capacity(sequences * width);
        for pair in self.splits.windows(2) {
            let (first, rest) = x[pair[0] * width..pair[1] * width].split_at(width);
            let start = y.len();
            y.extend_from_slice(first);
            vectorize(
                #[inline(always)]
                || self.pool(&mut y[start..], rest),
            );
        }
        Ok((CpuStorage::F32(y), (sequences, width).into()))
    }
}

impl Pool<'_> {
    /// Pools the other tokens of a sequence into `y`, which holds the first one's vector.
    #[inline(always)]
    fn pool(&self, y: &mut [f32], rest: &[f32]) {
        let width = y.len();
        match self.pooling {
            Pooling::Cls => {}
            Pooling::Last => {
                if let Some(last) = rest.chunks_exact(width).next_back() {
                    y.copy_from_slice(last);
                }
            }
            Pooling::Max => {
                for row in rest.chunks_exact(width) {
                    for (y, x) in y.iter_mut().zip(row) {
                        *y = y.max(*x);
                    }
                }
            }
            Pooling::Mean => {
                for row in rest.chunks_exact(width) {
                    for (y, x) in y.iter_mut().zip(row) {
                        *y += x;
                    }
                }
                let scale = 1.0 / (rest.len() / width + 1) as f32;
                for y in y {
                    *y *= scale;
                }
            }
        }
    }
}
