//! Embedding of tokens: rows of tables summed up and normalised on the way.

#[cfg(test)]
mod tests;

use std::arch::x86_64::_MM_HINT_T0;
use std::ops::Range;

use half::bf16;

use crate::cpu::memory::{PADDING, Rows, prefetch};
use crate::cpu::simd::{Number, Simd};
use crate::ops::normalize::cpu::{Norm, Results, normalize};

/// Tokens whose words are asked for ahead of their turn: a vocabulary is larger than caches.
const AHEAD: usize = 4;

/// What is looked up, each a matrix whose rows are padded with zeros to a multiple of [`PADDING`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables<'a, W> {
    pub(crate) words: &'a [W],
    pub(crate) positions: &'a [W],
    pub(crate) types: Option<&'a [W]>,
    pub(crate) norm: Norm<'a>,
}

/// Embeds tokens `rows` of a batch into the same rows of `wide` and `narrow`, padded with zeros to a multiple of 16 columns.
/// `types` may be empty, which is type 0 everywhere; `splits` are where sequences begin and, last, where they end.
///
/// # Panics
/// If a token, its type or its place is in none of the tables.
///
/// # Safety
/// The processor has the instructions of `V`. Rows that are written reach to the next multiple of 16 columns, and nobody
/// else uses them meanwhile.
pub(crate) unsafe fn embed<V: Simd, W: Number>(
    tables: &Tables<'_, W>,
    ids: &[u32],
    types: &[u32],
    splits: &[usize],
    rows: Range<usize>,
    wide: Option<Rows<f32>>,
    narrow: Option<Rows<bf16>>,
) {
    let stride = tables.norm.gain.len().next_multiple_of(PADDING);
    let results = Results { wide, narrow };
    // The last sequence that begins at the first row or before it; empty ones before it end there, too.
    let mut sequence = splits.partition_point(|split| *split <= rows.start).saturating_sub(1);
    // SAFETY: the processor has the instructions; rows of tables are slices as long as vectors reach, and results are what
    // the caller answers for.
    unsafe {
        V::run(
            #[inline(always)]
            || {
                for row in rows.clone() {
                    if let Some(id) = ids[..rows.end].get(row + AHEAD) {
                        // Where there is no such word, nothing happens.
                        let word = tables.words.as_ptr().wrapping_add(*id as usize * stride);
                        prefetch::<_MM_HINT_T0>(word.cast(), stride * size_of::<W>());
                    }
                    while splits[sequence + 1] <= row {
                        sequence += 1;
                    }
                    let word = of(tables.words, ids[row] as usize, stride);
                    let position = of(tables.positions, row - splits[sequence], stride);
                    let kind = types.get(row).map_or(0, |kind| *kind as usize);
                    match tables.types {
                        Some(table) => {
                            let kind = of(table, kind, stride);
                            normalize::<V>(
                                &tables.norm,
                                row,
                                &results,
                                #[inline(always)]
                                |column, _| {
                                    let pair =
                                        V::add(W::load::<V>(word.add(column)), W::load::<V>(position.add(column)));
                                    V::add(pair, W::load::<V>(kind.add(column)))
                                },
                            )
                        }
                        None => normalize::<V>(
                            &tables.norm,
                            row,
                            &results,
                            #[inline(always)]
                            |column, _| V::add(W::load::<V>(word.add(column)), W::load::<V>(position.add(column))),
                        ),
                    }
                }
            },
        );
    }
}

/// A row of a table, which is all there.
#[inline(always)]
fn of<W>(table: &[W], row: usize, stride: usize) -> *const W {
    table[row * stride..][..stride].as_ptr()
}
