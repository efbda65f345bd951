//! Rotary positions, vector by vector; norms of heads on the way.

#[cfg(test)]
mod tests;

use std::ops::Range;

use super::angles::Angles;
use crate::cpu::memory::{PADDING, Rows};
use crate::cpu::simd::{Number, Simd};
use crate::ops::normalize::cpu::{Norm, load, size};
use crate::ops::places::Places;
use crate::plan::Heads;

/// What rows are turned by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) heads: Heads,
    /// Of a head of queries and one of keys.
    pub(crate) norms: Option<[Norm<'a>; 2]>,
    /// Of all places that tokens have.
    pub(crate) angles: &'a Angles,
}

/// Turns the queries and keys of rows `rows` by where they stand in their sequences, which begin, and last end, at `splits`;
/// values go as they are. What is written is padded with zeros to a multiple of 16 columns.
///
/// # Panics
/// If there are no angles for a row's place.
///
/// # Safety
/// The processor has the instructions of `V`. Rows that are read have the columns of all heads; rows that are written reach
/// to the next multiple of 16, are none of those that are read, and nobody else uses them meanwhile.
pub(crate) unsafe fn rotate<V: Simd, N: Number>(
    turn: &Turn<'_>,
    splits: &[usize],
    rows: Range<usize>,
    input: Rows<f32>,
    out: Rows<N>,
) {
    let Heads { count, shared, width } = turn.heads;
    let (turned, whole) = ((count + shared) * width, turn.heads.row());
    let mut places = Places::from(splits, rows.start);
    // SAFETY: the processor has the instructions; rows and columns are those that the caller answers for.
    unsafe {
        V::run(
            #[inline(always)]
            || {
                for row in rows.clone() {
                    let angles = turn.angles.at(places.of(row));
                    let (from, to) = (input.starting_at(row), out.starting_at(row));
                    for head in 0..count + shared {
                        let norm = turn.norms.as_ref().map(|norms| &norms[usize::from(head >= count)]);
                        turn_head::<V, N>(width, norm, angles, from.at(0, head * width), to.at(0, head * width));
                    }
                    for column in (turned..whole).step_by(V::LANES) {
                        let x = load::<V>(from.at(0, column), whole - column);
                        write::<V, N>(to.at(0, column), whole - column, x);
                    }
                    for column in whole..whole.next_multiple_of(PADDING) {
                        to.at(0, column).write(N::default());
                    }
                }
            },
        );
    }
}

/// One head: both halves side by side.
#[inline(always)]
unsafe fn turn_head<V: Simd, N: Number>(
    width: usize,
    norm: Option<&Norm<'_>>,
    (cosines, sines): (&[f32], &[f32]),
    from: *const f32,
    to: *mut N,
) {
    let half = width / 2;
    // SAFETY: as the caller of `rotate` promises; cosines and sines are half as long as a head, norms are as long.
    unsafe {
        let at = |column: usize, count: usize| load::<V>(from.add(column), count);
        let sizes = norm.map(|norm| (norm, size::<V>(norm, width, &at)));
        let number = |column: usize, count: usize| {
            let x = at(column, count);
            let Some((norm, (mean, scale))) = sizes else { return x };
            let (gain, shift) = (norm.gain.as_ptr().add(column), norm.shift.as_ptr().add(column));
            V::fma(V::mul(V::sub(x, mean), scale), load::<V>(gain, count), load::<V>(shift, count))
        };
        for column in (0..half).step_by(V::LANES) {
            let count = half - column;
            let (x, y) = (number(column, count), number(half + column, count));
            let (cosine, sine) =
                (load::<V>(cosines.as_ptr().add(column), count), load::<V>(sines.as_ptr().add(column), count));
            write::<V, N>(to.add(column), count, V::sub(V::mul(x, cosine), V::mul(y, sine)));
            write::<V, N>(to.add(half + column), count, V::fma(y, cosine, V::mul(x, sine)));
        }
    }
}

/// A vector, or its first lanes where there are fewer.
#[inline(always)]
unsafe fn write<V: Simd, N: Number>(to: *mut N, count: usize, x: V::F) {
    // SAFETY: as the caller of `rotate` promises.
    unsafe { if count < V::LANES { N::store_first::<V>(to, count, x) } else { N::store::<V>(to, x) } }
}
