//! In place, on candle's tensors.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result};

use super::angles::Angles;
use crate::ops::normalize::candle::Norm;
use crate::ops::{expect_len, rows, values_mut, vectorize};
use crate::plan::Heads;

#[cfg(test)]
mod tests;

/// Turns queries and keys of a packed matrix.
#[derive(Debug)]
pub(crate) struct Rotate<'a> {
    pub(crate) heads: Heads,
    /// Of a head of queries and one of keys.
    pub(crate) norms: Option<&'a [Norm; 2]>,
    /// Of all places that tokens have.
    pub(crate) angles: &'a Angles,
    /// Where sequences begin and, last, where they end.
    pub(crate) splits: &'a [usize],
}

impl InplaceOp1 for Rotate<'_> {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (tokens, wide) = layout.shape().dims2()?;
        expect_len("rotate", "a row", wide, self.heads.row())?;
        let places: Vec<usize> = self.splits.windows(2).flat_map(|pair| 0..pair[1].saturating_sub(pair[0])).collect();
        expect_len("rotate", "the sequences", places.len(), tokens)?;
        let Heads { count, shared, width } = self.heads;
        rows::for_each_block(values_mut("rotate", storage, layout)?, wide, |first, block| {
            vectorize(
                #[inline(always)]
                || {
                    for (row, place) in block.chunks_exact_mut(wide).zip(&places[first..]) {
                        // Keys stand behind queries.
                        let heads = row.chunks_exact_mut(width).take(count + shared);
                        for (index, head) in heads.enumerate() {
                            if let Some(norms) = self.norms {
                                norms[usize::from(index >= count)].apply(head);
                            }
                            turn(head, self.angles.at(*place));
                        }
                    }
                },
            );
        });
        Ok(())
    }
}

#[inline(always)]
fn turn(head: &mut [f32], (cosines, sines): (&[f32], &[f32])) {
    let (first, second) = head.split_at_mut(cosines.len());
    for (((x, y), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        (*x, *y) = (*x * cosine - *y * sine, *y * cosine + *x * sine);
    }
}
