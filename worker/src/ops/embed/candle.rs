//! Into one of candle's tensors.

use candle_core::{Device, Result, Tensor, bail};

use crate::ops::normalize::candle::Norm;
use crate::ops::{expect_len, rows, values, vectorize};
use crate::plan::Packed;

#[cfg(test)]
mod tests;

/// What turns token ids into vectors. Tables are [rows, H].
#[derive(Debug)]
pub(crate) struct Embed {
    /// A tensor, because a model may multiply with it as well.
    pub(crate) words: Tensor,
    pub(crate) positions: Option<Vec<f32>>,
    pub(crate) types: Option<Vec<f32>>,
    pub(crate) norm: Option<Norm>,
}

impl Embed {
    /// Each id, type and length must be within its table.
    pub(crate) fn forward(&self, batch: &Packed<'_>) -> Result<Tensor> {
        let (width, Packed { ids, types, splits, .. }) = (self.words.dim(1)?, *batch);
        let (storage, layout) = self.words.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { bail!("embed: takes tables in memory only") };
        let words = values("embed", storage, layout)?;
        expect_len("embed", "the last split", splits.last().copied().unwrap_or(0), ids.len())?;
        let places: Vec<usize> = splits.windows(2).flat_map(|pair| 0..pair[1].saturating_sub(pair[0])).collect();
        expect_len("embed", "the sequences", places.len(), ids.len())?;
        expect_below("id", ids.iter().map(|id| *id as usize), words.len() / width)?;
        let positions = self.positions.as_deref();
        if let Some(positions) = positions {
            expect_below("place", places.iter().copied(), positions.len() / width)?;
        }
        let kinds = self.types.as_deref().unwrap_or_default();
        if !types.is_empty() && !kinds.is_empty() {
            expect_len("embed", "the types", types.len(), ids.len())?;
            expect_below("type", types.iter().map(|kind| *kind as usize), kinds.len() / width)?;
        }
        let mut x = vec![0.0; ids.len() * width];
        rows::for_each_block(&mut x, width, |first, block| {
            vectorize(
                #[inline(always)]
                || {
                    for (token, row) in (first..).zip(block.chunks_exact_mut(width)) {
                        let word = &words[ids[token] as usize * width..][..width];
                        row.copy_from_slice(word);
                        if let Some(positions) = positions {
                            for (x, position) in row.iter_mut().zip(&positions[places[token] * width..][..width]) {
                                *x += position;
                            }
                        }
                        if !kinds.is_empty() {
                            let kind = types.get(token).copied().unwrap_or(0) as usize;
                            for (x, kind) in row.iter_mut().zip(&kinds[kind * width..][..width]) {
                                *x += kind;
                            }
                        }
                        if let Some(norm) = &self.norm {
                            norm.apply(row);
                        }
                    }
                },
            );
        });
        Tensor::from_vec(x, (ids.len(), width), &Device::Cpu)
    }
}

fn expect_below(what: &str, mut found: impl Iterator<Item = usize>, end: usize) -> Result<()> {
    match found.find(|found| *found >= end) {
        Some(found) => bail!("embed: {what} {found} is not below {end}"),
        None => Ok(()),
    }
}
