//! Pooling of sequences, a strip of columns at a time.

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::cpu::memory::{PADDING, Rows};
use crate::cpu::simd::Simd;
use crate::plan::Pooling;

/// Vectors of a strip: enough for additions not to wait for each other.
const STRIP: usize = 8;

/// Pools sequences `sequences` of a packed matrix into the same rows of `out`, `width` columns. `splits` are where sequences
/// begin and, last, where they end; none is empty. What is written is padded with zeros to a multiple of 16 columns.
///
/// # Safety
/// The processor has the instructions of `V`. Rows of the sequences have `width` columns; those of `out` reach to the next
/// multiple of 16, and nobody else uses them meanwhile.
pub(crate) unsafe fn pool<V: Simd>(
    pooling: Pooling,
    input: Rows<f32>,
    splits: &[usize],
    sequences: Range<usize>,
    width: usize,
    out: Rows<f32>,
) {
    // SAFETY: the processor has the instructions; the rest is as the caller promises.
    unsafe {
        V::run(
            #[inline(always)]
            || {
                for sequence in sequences {
                    let rows = splits[sequence]..splits[sequence + 1];
                    let (whole, mut column) = (width / V::LANES * V::LANES, 0);
                    while column + STRIP * V::LANES <= whole {
                        strip::<V, STRIP>(pooling, input, rows.clone(), column, V::LANES, out.at(sequence, column));
                        column += STRIP * V::LANES;
                    }
                    while column < width.next_multiple_of(PADDING) {
                        let count = width.saturating_sub(column).min(V::LANES);
                        strip::<V, 1>(pooling, input, rows.clone(), column, count, out.at(sequence, column));
                        column += V::LANES;
                    }
                }
            },
        );
    }
}

/// Some vectors of columns of one sequence, each `count` columns.
#[inline(always)]
unsafe fn strip<V: Simd, const VECTORS: usize>(
    pooling: Pooling,
    input: Rows<f32>,
    rows: Range<usize>,
    column: usize,
    count: usize,
    out: *mut f32,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let first = if pooling == Pooling::Last { rows.end - 1 } else { rows.start };
        let mut pooled = load::<V, VECTORS>(input.at(first, column), count);
        match pooling {
            Pooling::Cls | Pooling::Last => {}
            Pooling::Max => {
                for row in rows.start + 1..rows.end {
                    for (pooled, x) in pooled.iter_mut().zip(load::<V, VECTORS>(input.at(row, column), count)) {
                        *pooled = V::max(*pooled, x);
                    }
                }
            }
            Pooling::Mean => {
                for row in rows.start + 1..rows.end {
                    for (pooled, x) in pooled.iter_mut().zip(load::<V, VECTORS>(input.at(row, column), count)) {
                        *pooled = V::add(*pooled, x);
                    }
                }
                let share = V::splat(1.0 / rows.len() as f32);
                for pooled in &mut pooled {
                    *pooled = V::mul(*pooled, share);
                }
            }
        }
        for (vector, pooled) in pooled.into_iter().enumerate() {
            let filled = if count < V::LANES { V::first(count, pooled, V::splat(0.0)) } else { pooled };
            V::store(out.add(vector * V::LANES), filled);
        }
    }
}

#[inline(always)]
unsafe fn load<V: Simd, const VECTORS: usize>(from: *const f32, count: usize) -> [V::F; VECTORS] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut vectors = [V::splat(0.0); VECTORS];
        for (vector, x) in vectors.iter_mut().enumerate() {
            let from = from.add(vector * V::LANES);
            *x = if count < V::LANES { V::load_first(from, count) } else { V::load(from) };
        }
        vectors
    }
}
