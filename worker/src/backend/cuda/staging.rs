//! A batch as kernels take it, written for one copy to the device. What a shape has room for beyond the batch is made
//! harmless: tokens that belong to no sequence, sequences without tokens, tiles without queries.

use super::program::Inputs;
use super::shape::Shape;
use crate::ops::attend::cuda::tiles;
use crate::plan::Packed;

/// Writes a batch to where `shape` has its inputs.
pub(super) fn write(batch: &Packed<'_>, shape: &Shape, to: &mut [u8]) {
    let inputs = Inputs::of(shape);
    let places = batch.splits.windows(2).flat_map(|pair| 0..pair[1] - pair[0]).map(|place| place as u32);
    let tokens = batch.ids.len() as u32;
    fill(&mut to[inputs.ids], batch.ids.iter().copied(), 0);
    fill(&mut to[inputs.places], places, 0);
    fill(&mut to[inputs.types], batch.types.iter().copied(), 0);
    fill(&mut to[inputs.splits], batch.splits.iter().map(|split| *split as u32), tokens);
    fill(&mut to[inputs.marks], batch.marks.iter().map(|mark| *mark as u32), 0);
    fill(&mut to[inputs.tiles], tiles(batch.splits).flatten(), 0);
}

/// Writes numbers one after the other, and `rest` into what is left.
fn fill(to: &mut [u8], numbers: impl Iterator<Item = u32>, rest: u32) {
    let (places, _) = to.as_chunks_mut::<4>();
    let numbers = numbers.chain(std::iter::repeat(rest));
    places.iter_mut().zip(numbers).for_each(|(place, number)| *place = number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(bytes: &[u8]) -> Vec<u32> {
        bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
    }

    #[test]
    fn what_is_beyond_the_batch_is_harmless() {
        let batch = Packed { ids: &[5, 6, 7], types: &[], splits: &[0, 1, 3], marks: &[2] };
        let shape = Shape { tokens: 5, sequences: 4, marks: 2 };
        let inputs = Inputs::of(&shape);
        let mut bytes = vec![0xff; inputs.bytes()];
        write(&batch, &shape, &mut bytes);
        assert_eq!(numbers(&bytes[inputs.ids]), [5, 6, 7, 0, 0]);
        assert_eq!(numbers(&bytes[inputs.places]), [0, 0, 1, 0, 0]);
        assert_eq!(numbers(&bytes[inputs.types]), [0; 5]);
        assert_eq!(numbers(&bytes[inputs.splits]), [0, 1, 3, 3, 3]);
        assert_eq!(numbers(&bytes[inputs.marks]), [2, 0]);
        assert_eq!(numbers(&bytes[inputs.tiles]), [0, 1, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0]);
    }
}
