//! Embedding of tokens: rows of tables summed up, and normalised on the way where there is a norm.

#[cfg(test)]
mod tests;

use std::arch::x86_64::_MM_HINT_T0;
use std::ops::Range;

use half::bf16;

use crate::cpu::memory::{PADDING, Rows, prefetch};
use crate::cpu::simd::{Number, Simd};
use crate::ops::normalize::cpu::{Norm, Results, normalize};
use crate::ops::places::Places;

/// Tokens whose words are asked for ahead of their turn: a vocabulary is larger than caches.
const AHEAD: usize = 4;

/// What is looked up, each a matrix whose rows are padded with zeros to a multiple of [`PADDING`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables<'a, W> {
    pub(crate) width: usize,
    pub(crate) words: &'a [W],
    pub(crate) positions: Option<&'a [W]>,
    pub(crate) types: Option<&'a [W]>,
    pub(crate) norm: Option<Norm<'a>>,
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
    let stride = tables.width.next_multiple_of(PADDING);
    let results = Results { wide, narrow };
    let mut places = Places::from(splits, rows.start);
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
                    let place = places.of(row);
                    let word = of(tables.words, ids[row] as usize, stride);
                    let position = tables.positions.map(|table| of(table, place, stride));
                    let kind = types.get(row).map_or(0, |kind| *kind as usize);
                    let kind = tables.types.map(|table| of(table, kind, stride));
                    match (position, kind) {
                        (Some(position), Some(kind)) => finish::<V>(
                            tables.norm.as_ref(),
                            tables.width,
                            row,
                            &results,
                            #[inline(always)]
                            |column, _| {
                                let pair = V::add(W::load::<V>(word.add(column)), W::load::<V>(position.add(column)));
                                V::add(pair, W::load::<V>(kind.add(column)))
                            },
                        ),
                        (Some(other), None) | (None, Some(other)) => finish::<V>(
                            tables.norm.as_ref(),
                            tables.width,
                            row,
                            &results,
                            #[inline(always)]
                            |column, _| V::add(W::load::<V>(word.add(column)), W::load::<V>(other.add(column))),
                        ),
                        (None, None) => finish::<V>(
                            tables.norm.as_ref(),
                            tables.width,
                            row,
                            &results,
                            #[inline(always)]
                            |column, _| W::load::<V>(word.add(column)),
                        ),
                    }
                }
            },
        );
    }
}

/// Writes a row of the results, normalised if there is a norm. Tables are padded with zeros, and so are rows without one.
#[inline(always)]
unsafe fn finish<V: Simd>(
    norm: Option<&Norm<'_>>,
    width: usize,
    row: usize,
    results: &Results,
    numbers: impl Fn(usize, usize) -> V::F,
) {
    // SAFETY: as the caller of `embed` promises.
    unsafe {
        match norm {
            Some(norm) => normalize::<V>(norm, row, results, numbers),
            None => {
                for column in (0..width.next_multiple_of(PADDING)).step_by(V::LANES) {
                    let x = numbers(column, V::LANES);
                    results.wide.into_iter().for_each(|wide| V::store(wide.at(row, column), x));
                    results.narrow.into_iter().for_each(|narrow| V::store_bf16(narrow.at(row, column), x));
                }
            }
        }
    }
}

/// A row of a table, which is all there.
#[inline(always)]
fn of<W>(table: &[W], row: usize, stride: usize) -> *const W {
    table[row * stride..][..stride].as_ptr()
}
