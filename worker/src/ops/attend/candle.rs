//! On candle's tensors.
//!
//! A task takes a block of queries of one sequence through all heads: its rows of the output are its own, and the scores
//! of a block against all keys stay in the core's cache.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};
use gemm::Parallelism;
use rayon::prelude::*;

use crate::ops::{expect_len, math, values, vectorize};
use crate::plan::{Heads, Mask};

#[cfg(test)]
mod tests;

/// Queries in a block: at 512 keys their scores are 128 KiB.
const QUERIES: usize = 64;
/// Multiply-adds of a batch below which it is not split over threads.
const WORK_MIN: usize = 1 << 20;

/// Attention within each sequence of a packed matrix.
#[derive(Debug)]
pub(crate) struct Attend<'a> {
    pub(crate) heads: Heads,
    pub(crate) mask: Mask,
    /// What products of queries and keys are multiplied with.
    pub(crate) scale: f32,
    /// Where sequences begin and, last, where they end.
    pub(crate) splits: &'a [usize],
}

/// A block of queries: rows `first..first + rows` of the sequence `start..end`.
struct Task<'a> {
    start: usize,
    end: usize,
    first: usize,
    /// Their rows of the output.
    out: &'a mut [f32],
}

impl CustomOp1 for Attend<'_> {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, wide) = layout.shape().dims2()?;
        expect_len("attend", "a row", wide, self.heads.row())?;
        let width = self.heads.queries();
        expect_len("attend", "the last split", self.splits.last().copied().unwrap_or(0), tokens)?;
        let qkv = values("attend", storage, layout)?;
        let mut out = vec![0.0; tokens * width];
        let tasks = self.tasks(&mut out, width)?;
        let work: usize = self.splits.windows(2).map(|pair| pair[1].saturating_sub(pair[0]).pow(2) * width * 2).sum();
        if work < WORK_MIN || rayon::current_num_threads() == 1 {
            let mut scores = Vec::new();
            tasks.into_iter().for_each(|task| self.run(qkv, width, task, &mut scores));
        } else {
            tasks.into_par_iter().for_each_init(Vec::new, |scores, task| self.run(qkv, width, task, scores));
        }
        Ok((CpuStorage::F32(out), (tokens, width).into()))
    }
}

impl Attend<'_> {
    /// Cuts the output into blocks of rows.
    fn tasks<'o>(&self, mut out: &'o mut [f32], width: usize) -> Result<Vec<Task<'o>>> {
        let mut tasks = Vec::with_capacity(self.splits.len());
        for pair in self.splits.windows(2) {
            let (start, end) = (pair[0], pair[1]);
            if start > end {
                bail!("attend: the splits fall from {start} to {end}");
            }
            for first in (start..end).step_by(QUERIES) {
                let rows = QUERIES.min(end - first);
                let (block, rest) = std::mem::take(&mut out).split_at_mut(rows * width);
                out = rest;
                tasks.push(Task { start, end, first, out: block });
            }
        }
        Ok(tasks)
    }

    fn run(&self, qkv: &[f32], width: usize, task: Task<'_>, scores: &mut Vec<f32>) {
        let Task { start, end, first, out } = task;
        let (rows, head, wide) = (out.len() / width, self.heads.width, self.heads.row());
        // What any of the queries looks at, and each of them.
        let seen = |query: usize| self.mask.seen(first - start + query, end - start);
        let (begin, keys) = (start + seen(0).start, seen(rows - 1).end - seen(0).start);
        scores.resize(rows * keys, 0.0);
        for index in 0..self.heads.count {
            let [q, k, v] = self.heads.columns(index);
            let query = Matrix { values: &qkv[first * wide + q..], rows: (rows, wide), columns: (head, 1) };
            let key = Matrix { values: &qkv[begin * wide + k..], rows: (head, 1), columns: (keys, wide) };
            let value = Matrix { values: &qkv[begin * wide + v..], rows: (keys, wide), columns: (head, 1) };
            // [rows, keys] = [rows, D] · [D, keys]
            multiply(scores, keys, self.scale, &query, &key);
            vectorize(
                #[inline(always)]
                || {
                    for (query, row) in scores.chunks_exact_mut(keys).enumerate() {
                        let seen = seen(query);
                        let (before, rest) = row.split_at_mut(seen.start + start - begin);
                        let (row, after) = rest.split_at_mut(seen.len());
                        softmax(row);
                        before.fill(0.0);
                        after.fill(0.0);
                    }
                },
            );
            // [rows, D] = [rows, keys] · [keys, D]
            let weights = Matrix { values: scores, rows: (rows, keys), columns: (keys, 1) };
            multiply(&mut out[q..], width, 1.0, &weights, &value);
        }
    }
}

/// A matrix somewhere in a slice.
struct Matrix<'a> {
    values: &'a [f32],
    /// How many, and how far apart.
    rows: (usize, usize),
    columns: (usize, usize),
}

impl Matrix<'_> {
    /// Values from its first element to its last.
    fn span(&self) -> usize {
        let last = |(count, stride): (usize, usize)| count.saturating_sub(1) * stride;
        last(self.rows) + last(self.columns) + 1
    }
}

/// `out = scale · left · right` on this thread; rows of `out` are `stride` apart.
fn multiply(out: &mut [f32], stride: usize, scale: f32, left: &Matrix<'_>, right: &Matrix<'_>) {
    let (m, n, k) = (left.rows.0, right.columns.0, left.columns.0);
    assert_eq!(k, right.rows.0, "inner dimensions");
    let written = Matrix { values: out, rows: (m, stride), columns: (n, 1) }.span();
    assert!(written <= out.len() && left.span() <= left.values.len() && right.span() <= right.values.len());
    assert!(n <= stride, "rows of the output overlap");
    // SAFETY: the kernel reads exactly the elements (row, column) of `left` and `right` at `row · row stride + column ·
    // column stride` and writes those of `out`, whose last ones were just found to be within their slices; `out` is
    // borrowed for writing alone, and its rows do not overlap.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride.cast_signed(),
            false,
            left.values.as_ptr(),
            left.columns.1.cast_signed(),
            left.rows.1.cast_signed(),
            right.values.as_ptr(),
            right.columns.1.cast_signed(),
            right.rows.1.cast_signed(),
            0.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// `row = e^(row - max) / Σ`, in place.
#[inline(always)]
fn softmax(row: &mut [f32]) {
    let max = math::max(row);
    for x in row.iter_mut() {
        *x = math::exp(*x - max);
    }
    let scale = 1.0 / math::sum(row, |x| x);
    for x in row.iter_mut() {
        *x *= scale;
    }
}
