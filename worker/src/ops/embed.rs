//! `x[t] = layer_norm(words[id[t]] + positions[place of t in its sequence])`: `[T]` ids in, `[T, H]` out.

use candle_core::{Device, Result, Tensor, bail};

use super::normalize::Norm;
use super::{expect_len, rows, vectorize};

#[cfg(target_arch = "x86_64")]
pub(crate) mod cpu;
#[cfg(test)]
pub(crate) mod reference;

/// What turns token ids into vectors.
#[derive(Debug)]
pub(crate) struct Embed {
    /// [V, H]
    pub(crate) words: Vec<f32>,
    /// [P, H], with whatever else is added to every token.
    pub(crate) positions: Vec<f32>,
    pub(crate) norm: Norm,
}

impl Embed {
    /// Numbers held in memory.
    pub(crate) fn parameters(&self) -> u64 {
        (self.words.len() + self.positions.len() + self.norm.gain.len() + self.norm.shift.len()) as u64
    }

    /// `splits` are where sequences begin and, last, where they end. Each id and each length must be within its table.
    pub(crate) fn forward(&self, ids: &[u32], splits: &[usize]) -> Result<Tensor> {
        let width = self.norm.gain.len();
        expect_len("embed", "the last split", splits.last().copied().unwrap_or(0), ids.len())?;
        let places: Vec<usize> = splits.windows(2).flat_map(|pair| 0..pair[1].saturating_sub(pair[0])).collect();
        expect_len("embed", "the sequences", places.len(), ids.len())?;
        let (words, positions) = (self.words.len() / width, self.positions.len() / width);
        if let Some(id) = ids.iter().find(|id| **id as usize >= words) {
            bail!("embed: id {id} is not below {words}");
        }
        if let Some(place) = places.iter().find(|place| **place >= positions) {
            bail!("embed: place {place} is not below {positions}");
        }
        let mut x = vec![0.0; ids.len() * width];
        rows::for_each_block(&mut x, width, |first, block| {
            vectorize(
                #[inline(always)]
                || {
                    for (token, row) in (first..).zip(block.chunks_exact_mut(width)) {
                        let word = &self.words[ids[token] as usize * width..][..width];
                        let position = &self.positions[places[token] * width..][..width];
                        for ((x, word), position) in row.iter_mut().zip(word).zip(position) {
                            *x = word + position;
                        }
                        self.norm.apply(row);
                    }
                },
            );
        });
        Tensor::from_vec(x, (ids.len(), width), &Device::Cpu)
    }
}
