//! Attention of one head over one sequence, by tiles of queries. Keys and values are packed once; a tile takes the keys in
//! blocks, with a running maximum and sum (online softmax), so that what it needs beside them is as large as a block.
//!
//! Blocks are counted from the start of the sequence and a row's numbers are summed up in the same order in any tile, so an
//! output row is the same bits with whatever queries it is computed. What only its neighbours in a tile look at has a weight
//! of 0, or of anything in a block before its own first one, after which its sums are multiplied by 0: so values must be
//! finite, as those of models that were loaded are.

mod pack;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub(crate) use pack::Attends;

use crate::cpu::dot::VECTORS;
use crate::cpu::memory::{Aligned, Rows};
use crate::cpu::simd::{Number, Simd};
use crate::ops::activate::cpu::exp2;
use crate::plan::Mask;

/// Keys of a block: as many as sequences mostly have, so that most have one block.
pub(crate) const BLOCK: usize = 512;
/// Vectors of keys in a tile of scores.
const PANEL: usize = 2;
/// Rows of the largest tile there is.
const ROWS_MAX: usize = 8;
/// Below any score that is a number, and so far that a power of two of it is 0, without being infinite.
const LOWEST: f32 = -1e30;

/// What one thread needs beside inputs and outputs. It grows to what the longest sequence needs, and stays.
pub(crate) struct Scratch<D: Attends> {
    /// Packed keys and values of one head.
    keys: Aligned<D::Words>,
    values: Aligned<D::Words>,
    /// Of a tile and a block, [`BLOCK`] numbers in a row.
    scores: Aligned<f32>,
    weights: Aligned<D::Element>,
    /// Queries of a tile, where a head's own do not end with a word.
    queries: Aligned<D::Element>,
    /// Sums of weighted values of a tile, where there are more blocks than one.
    sums: Aligned<f32>,
}

impl<D: Attends> Scratch<D> {
    pub(crate) fn new() -> Self {
        Self {
            keys: Aligned::zeroed(0),
            values: Aligned::zeroed(0),
            scores: Aligned::zeroed(ROWS_MAX * BLOCK),
            weights: Aligned::zeroed(ROWS_MAX * BLOCK),
            queries: Aligned::zeroed(0),
            sums: Aligned::zeroed(0),
        }
    }

    fn reserve(&mut self, head: usize, keys: usize) {
        let lanes = D::V::LANES;
        let width = head.next_multiple_of(lanes * D::DEPTH);
        grow(&mut self.keys, head.div_ceil(D::DEPTH) * keys.div_ceil(lanes));
        grow(&mut self.values, keys.div_ceil(D::DEPTH) * head.div_ceil(lanes));
        grow(&mut self.queries, ROWS_MAX * width);
        grow(&mut self.sums, ROWS_MAX * width);
    }
}

impl<D: Attends> std::fmt::Debug for Scratch<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scratch({} words of keys)", self.keys.len())
    }
}

fn grow<T: crate::cpu::memory::Plain>(memory: &mut Aligned<T>, len: usize) {
    if memory.len() < len {
        *memory = Aligned::zeroed(len);
    }
}

/// One head of one sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// Columns of queries, keys and values
    pub(crate) width: usize,
    /// Tokens of the sequence; there is one.
    pub(crate) keys: usize,
    pub(crate) mask: Mask,
}

/// Packs keys and values, for [`attend`] to be called with any queries that look at them.
///
/// Views begin at the head's first column in the sequence's first row.
///
/// # Safety
/// The processor has the instructions of `D`. The head's columns of the sequence's rows lie in the views' memory, and nobody
/// writes them.
pub(crate) unsafe fn pack<D: Attends>(scratch: &mut Scratch<D>, k: Rows<D::Element>, v: Rows<D::Element>, head: Head) {
    scratch.reserve(head.width, head.keys);
    // SAFETY: the processor has the instructions; the rest is as the caller promises, and the scratch is large enough.
    unsafe {
        D::run(
            #[inline(always)]
            || {
                pack::keys::<D>(k, head.keys, head.width, scratch.keys.as_mut_ptr());
                pack::values::<D>(v, head.keys, head.width, scratch.values.as_mut_ptr());
            },
        );
    }
}

/// `out[i] = Σ_j softmax_j(q[i] · k[j]) v[j]` over the keys of a sequence that the mask lets be seen, for some of its
/// queries, with the softmax to the base 2: queries come scaled by log2(e) and whatever else.
///
/// Views begin at the head's first column in the sequence's first row. Written are rows `queries` of `out`, the head's
/// columns and `pad` more, which become 0.
///
/// # Safety
/// The processor has the instructions of `D`, and the scratch holds the packed keys and values of such a head. What is read
/// lies in the views' memory and nobody writes it; what is written lies in it, too, and nobody else uses it.
pub(crate) unsafe fn attend<D: Attends>(
    scratch: &mut Scratch<D>,
    q: Rows<D::Element>,
    head: Head,
    queries: Range<usize>,
    out: Rows<D::Element>,
    pad: usize,
) {
    // SAFETY: as the caller promises.
    unsafe {
        // Tiles of nearly the same height: 16 rows go as 8 and 8, 9 as 5 and 4.
        let count = queries.len().div_ceil(D::ROWS);
        let first = |tile: usize| queries.start + queries.len() * tile / count;
        for index in 0..count {
            let (row, end) = (first(index), first(index + 1));
            let (q, out) = (q.starting_at(row), out.starting_at(row));
            let (left, stride) = left::<D>(&mut scratch.queries, q, end - row, head.width);
            let seen = |query: usize| head.mask.seen(query, head.keys);
            let whole = PANEL * D::V::LANES;
            let keys = seen(row).start / whole * whole..seen(end - 1).end;
            let mut tile = Tile { scratch: &mut *scratch, left, stride, head, first: row, keys, out };
            macro_rules! sized {
                ($($rows:literal)*) => {
                    match end - row {
                        $($rows if $rows <= D::ROWS => tile.run::<$rows>(),)*
                        _ => unreachable!("a tile has 1 to 8 rows"),
                    }
                };
            }
            sized!(1 2 3 4 5 6 7 8);
            if pad > 0 {
                for row in 0..end - row {
                    out.at(row, head.width).write_bytes(0, pad);
                }
            }
        }
    }
}

/// Queries as words, and words from one to the next: where they are, or copied where the last word would not be theirs
/// alone.
unsafe fn left<D: Attends>(
    copy: &mut Aligned<D::Element>,
    q: Rows<D::Element>,
    rows: usize,
    head: usize,
) -> (*const u32, usize) {
    // SAFETY: rows and columns are those the caller answers for; the copy has whole words for them all.
    unsafe {
        if head.is_multiple_of(D::DEPTH) && q.stride.is_multiple_of(D::DEPTH) {
            return (q.at(0, 0).cast(), q.stride / D::DEPTH);
        }
        let width = head.next_multiple_of(D::DEPTH);
        for (row, copy) in copy.chunks_exact_mut(width).take(rows).enumerate() {
            copy[..head].copy_from_slice(std::slice::from_raw_parts(q.at(row, 0), head));
            copy[head..].fill(D::Element::default());
        }
        (copy.as_ptr().cast(), width / D::DEPTH)
    }
}

/// Some queries, on their way through the keys.
struct Tile<'a, D: Attends> {
    scratch: &'a mut Scratch<D>,
    /// Words of the first query, and from one query to the next.
    left: *const u32,
    stride: usize,
    head: Head,
    /// Where in the sequence the first query stands.
    first: usize,
    /// What any of the queries looks at, from a whole panel on. What a query does not look at has no weight.
    keys: Range<usize>,
    /// From the first query's row on.
    out: Rows<D::Element>,
}

/// A vector of numbers.
type F<D> = <<D as crate::cpu::dot::Dot>::V as Simd>::F;

impl<D: Attends> Tile<'_, D> {
    /// Its own function for each number of rows, so that the compiler has all registers for it.
    #[inline(never)]
    unsafe fn run<const ROWS: usize>(&mut self) {
        // SAFETY: as the caller of `attend` promises; this is compiled apart from it.
        unsafe {
            D::run(
                #[inline(always)]
                || {
                    let mut largest = [LOWEST; ROWS];
                    let mut totals = [D::zero(); ROWS];
                    // Blocks are counted from the start of the sequence, whatever of the first one is left out.
                    let first = self.keys.start / BLOCK * BLOCK;
                    for block in (first..self.keys.end).step_by(BLOCK) {
                        let (start, end) = (block.max(self.keys.start), (block + BLOCK).min(self.keys.end));
                        let tops = self.scores::<ROWS>(start..end);
                        let shrink = self.weigh::<ROWS>(start..end, tops, &mut largest, &mut totals);
                        self.mix::<ROWS>(start..end, &shrink, &totals);
                    }
                },
            );
        }
    }

    /// Scores of a block of keys. Gives the largest of each row, lane by lane.
    #[inline(always)]
    unsafe fn scores<const ROWS: usize>(&mut self, keys: Range<usize>) -> [F<D>; ROWS] {
        let lanes = D::V::LANES;
        // SAFETY: vectors of keys are packed up to the last key; the block has room for whole vectors.
        unsafe {
            let mut tops = [D::V::splat(LOWEST); ROWS];
            for first in keys.clone().step_by(PANEL * lanes) {
                // As they are packed, whether or not all of them are looked at.
                if first + lanes < self.head.keys {
                    self.panel::<ROWS, PANEL>(first, first - keys.start, &mut tops);
                } else {
                    self.panel::<ROWS, 1>(first, first - keys.start, &mut tops);
                }
            }
            tops
        }
    }

    /// Scores of one panel, whose first key is `first` in the sequence and `at` in its block.
    #[inline(always)]
    unsafe fn panel<const ROWS: usize, const WIDE: usize>(&mut self, first: usize, at: usize, tops: &mut [F<D>; ROWS]) {
        let (lanes, steps) = (D::V::LANES, self.head.width.div_ceil(D::DEPTH));
        // SAFETY: as for `scores`.
        unsafe {
            let keys = self.scratch.keys.as_ptr().add(first / lanes * steps);
            let mut sums = [[D::zero(); WIDE]; ROWS];
            multiply::<D, ROWS, WIDE>(self.left, self.stride, steps, keys, &mut sums);
            let scores = self.scratch.scores.as_mut_ptr().add(at);
            self.hide(first, &mut sums);
            for (row, (sums, top)) in sums.iter().zip(tops).enumerate() {
                for (vector, sum) in sums.iter().enumerate() {
                    *top = D::V::max(*top, *sum);
                    D::V::store(scores.add(row * BLOCK + vector * lanes), *sum);
                }
            }
        }
    }

    /// Makes scores of keys that a query does not look at, or that are none, lower than any other.
    #[inline(always)]
    unsafe fn hide<const ROWS: usize, const WIDE: usize>(&self, first: usize, sums: &mut [[F<D>; WIDE]; ROWS]) {
        let (lanes, end) = (D::V::LANES, first + WIDE * D::V::LANES);
        // Most panels are seen by all queries: by the last one from their start, by the first one to their end.
        let seen = |row: usize| self.head.mask.seen(self.first + row, self.head.keys);
        if seen(ROWS - 1).start <= first && end <= seen(0).end {
            return;
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let seen = seen(row);
            for (vector, sum) in sums.iter_mut().enumerate() {
                let first = first + vector * lanes;
                let (before, until) = (seen.start.saturating_sub(first), seen.end.saturating_sub(first));
                // SAFETY: as for `scores`.
                unsafe {
                    let lowest = D::V::splat(LOWEST);
                    *sum = D::V::first(until.min(lanes), *sum, lowest);
                    *sum = D::V::first(before.min(lanes), lowest, *sum);
                }
            }
        }
    }

    /// Turns the scores of a block of `keys` into weights relative to the largest score so far, and adds them up. Gives what
    /// earlier sums are to be multiplied with.
    #[inline(always)]
    unsafe fn weigh<const ROWS: usize>(
        &mut self,
        keys: Range<usize>,
        tops: [F<D>; ROWS],
        largest: &mut [f32; ROWS],
        totals: &mut [F<D>; ROWS],
    ) -> [F<D>; ROWS] {
        let lanes = D::V::LANES;
        // SAFETY: the block has room for whole panels, and scores of all keys and of those that fill up their vectors.
        unsafe {
            // All rows' maxima first: each is a chain of dependent steps, and those of several rows go side by side.
            let mut shrink = [D::zero(); ROWS];
            for (row, top) in tops.into_iter().enumerate() {
                let top = largest[row].max(D::V::largest(top));
                if keys.start > self.keys.start {
                    // Exactly 1 where nothing was larger, so that a block of which a row sees nothing leaves it as it was.
                    let is_same = top == largest[row];
                    shrink[row] = if is_same { D::V::splat(1.0) } else { power::<D>(D::V::splat(largest[row] - top)) };
                    totals[row] = D::V::mul(totals[row], shrink[row]);
                }
                largest[row] = top;
            }
            for row in 0..ROWS {
                let top = D::V::splat(largest[row]);
                let (scores, weights) =
                    (self.scratch.scores.as_ptr().add(row * BLOCK), self.scratch.weights.as_mut_ptr().add(row * BLOCK));
                let mut total = [totals[row], D::zero()];
                let vectors = keys.len().div_ceil(lanes);
                for pair in 0..vectors / 2 {
                    let at = pair * 2 * lanes;
                    let first = power::<D>(D::V::sub(D::V::load(scores.add(at)), top));
                    let second = power::<D>(D::V::sub(D::V::load(scores.add(at + lanes)), top));
                    total = [D::V::add(total[0], first), D::V::add(total[1], second)];
                    D::store_pair(weights.add(at), first, second);
                }
                if vectors % 2 == 1 {
                    let at = (vectors - 1) * lanes;
                    let last = power::<D>(D::V::sub(D::V::load(scores.add(at)), top));
                    total[0] = D::V::add(total[0], last);
                    D::Element::store::<D::V>(weights.add(at), last);
                }
                totals[row] = D::V::add(total[0], total[1]);
            }
            shrink
        }
    }

    /// Adds the weighted values of a block of keys to the sums of earlier blocks; after the last, divides by the total and
    /// writes them.
    #[inline(always)]
    unsafe fn mix<const ROWS: usize>(&mut self, keys: Range<usize>, shrink: &[F<D>; ROWS], totals: &[F<D>; ROWS]) {
        let vectors = self.head.width.div_ceil(D::V::LANES);
        // SAFETY: as the caller promises.
        unsafe {
            let mut scales = [D::zero(); ROWS];
            if keys.end == self.keys.end {
                for (scale, total) in scales.iter_mut().zip(totals) {
                    *scale = D::V::splat(1.0 / D::V::sum(*total));
                }
            }
            for panel in pack::panels(vectors) {
                match panel.len() {
                    1 => self.mix_panel::<ROWS, 1>(keys.clone(), panel.start, shrink, &scales),
                    2 => self.mix_panel::<ROWS, 2>(keys.clone(), panel.start, shrink, &scales),
                    _ => self.mix_panel::<ROWS, VECTORS>(keys.clone(), panel.start, shrink, &scales),
                }
            }
        }
    }

    /// The same for one panel of the head's vectors.
    #[inline(always)]
    unsafe fn mix_panel<const ROWS: usize, const WIDE: usize>(
        &mut self,
        keys: Range<usize>,
        first: usize,
        shrink: &[F<D>; ROWS],
        scales: &[F<D>; ROWS],
    ) {
        let lanes = D::V::LANES;
        let width = self.head.width.next_multiple_of(lanes);
        // SAFETY: values are packed up to the last key's word, where 0 stands for what fills it up; the weights of keys that
        // nobody looks at are 0. Sums have room for whole vectors of the head.
        unsafe {
            let mut sums = [[D::zero(); WIDE]; ROWS];
            let kept = self.scratch.sums.as_mut_ptr().add(first * lanes);
            if keys.start > self.keys.start {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        *sum = D::V::mul(D::V::load(kept.add(row * width + vector * lanes)), shrink[row]);
                    }
                }
            }
            let values = self.scratch.values.as_ptr();
            let values = values.add(first * self.head.keys.div_ceil(D::DEPTH) + keys.start / D::DEPTH * WIDE);
            let weights = self.scratch.weights.as_ptr().cast();
            multiply::<D, ROWS, WIDE>(weights, BLOCK / D::DEPTH, keys.len().div_ceil(D::DEPTH), values, &mut sums);
            for (row, sums) in sums.iter().enumerate() {
                for (vector, sum) in sums.iter().enumerate() {
                    let column = (first + vector) * lanes;
                    if keys.end < self.keys.end {
                        D::V::store(kept.add(row * width + vector * lanes), *sum);
                    } else if column + lanes <= self.head.width {
                        D::Element::store::<D::V>(self.out.at(row, column), D::V::mul(*sum, scales[row]));
                    } else {
                        let result = D::V::mul(*sum, scales[row]);
                        D::Element::store_first::<D::V>(self.out.at(row, column), self.head.width - column, result);
                    }
                }
            }
        }
    }
}

/// Adds to sums `steps` words of each row of `left`, `stride` words apart, times a panel.
#[inline(always)]
unsafe fn multiply<D: Attends, const ROWS: usize, const WIDE: usize>(
    left: *const u32,
    stride: usize,
    steps: usize,
    panel: *const D::Words,
    sums: &mut [[D::Sums; WIDE]; ROWS],
) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut running = *sums;
        for step in 0..steps {
            let mut columns = [D::load(panel.add(step * WIDE)); WIDE];
            for (vector, column) in columns.iter_mut().enumerate() {
                *column = D::load(panel.add(step * WIDE + vector));
            }
            for (row, sums) in running.iter_mut().enumerate() {
                let word = D::broadcast(left.add(row * stride + step));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = D::dot(*sum, word, column);
                }
            }
        }
        *sums = running;
    }
}

/// 2^x, as exact as elements are.
#[inline(always)]
unsafe fn power<D: Attends>(x: F<D>) -> F<D> {
    // SAFETY: as the caller promises.
    unsafe { if D::Element::NARROW { exp2::<D::V, true>(x) } else { exp2::<D::V, false>(x) } }
}
