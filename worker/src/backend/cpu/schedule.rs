//! How one batch is cut into steps and tiles: which rows, columns, heads or sequences a thread takes at a time. Pure.
//!
//! Groups over many rows go block by block, each through the whole group. With few rows, blocks would be too small for
//! all threads, and each would read all weights: then every task is a step by itself, and products are cut by columns,
//! so that each weight is read by one thread only.

#[cfg(test)]
mod tests;

use std::ops::Range;

use super::program::{Group, GroupKind, Program, Task};
use crate::plan::{self, Packed, Rows};

/// Rows of a block at most: what lives within a group stays in a core's second cache, and weights are read once for all.
pub(super) const BLOCK_ROWS_MAX: usize = 96;
/// Rows of a block at least, where there are so many: below, weights are read for too little.
const BLOCK_ROWS_MIN: usize = 32;
/// Rows come in multiples of this, the height of the tallest tile.
const ROWS_STEP: usize = 8;
/// Tiles of a product for each thread at most, when it is cut by columns: enough to make up for one that is late.
const COLUMN_TILES_MAX: usize = 4;
/// Tiles of attention for each thread, where there are so many.
const ATTEND_TILES: usize = 8;
/// Queries of a tile of attention at least.
const QUERIES_MIN: usize = 64;

/// What is done together before all threads go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) group: usize,
    pub(super) tasks: Range<usize>,
    pub(super) cut: Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// By blocks of rows: tile i is rows `bounds[i]..bounds[i + 1]` of the schedule's bounds for these rows.
    Blocks(Rows),
    /// By panels of columns, so many a tile, for all rows.
    Panels { rows: usize, each: usize },
    /// By the schedule's list of heads and queries.
    Heads,
    /// By rows gathered, one a tile.
    Gathered,
}

/// Some heads of some queries of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    pub(super) sequence: usize,
    pub(super) heads: Range<usize>,
    pub(super) queries: Range<usize>,
}

/// The steps of one batch. Kept from batch to batch, so that making one allocates nothing once it has grown.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    pub(super) steps: Vec<Step>,
    /// How many tiles each step has.
    pub(super) tiles: Vec<usize>,
    pub(super) heads: Vec<Heads>,
    bounds: [Vec<usize>; 3],
}

impl Schedule {
    /// Cuts a batch for `threads`. `panels` says how many panels of columns the product of a task has.
    pub(super) fn plan(
        &mut self,
        program: &Program,
        batch: &Packed<'_>,
        threads: usize,
        panels: impl Fn(usize) -> usize,
    ) {
        self.steps.clear();
        self.tiles.clear();
        self.heads.clear();
        for rows in [Rows::Tokens, Rows::Sequences, Rows::Marks] {
            bounds(&mut self.bounds[rows as usize], batch.rows(rows), threads);
        }
        for (index, group) in program.groups.iter().enumerate() {
            match group.kind {
                GroupKind::RowWise(rows) => {
                    self.row_wise(program, index, group, (rows, batch.rows(rows)), threads, &panels)
                }
                GroupKind::Attend => {
                    if self.heads.is_empty()
                        && let Some(Task::Attend { heads, .. }) = program.tasks.get(group.tasks.start)
                    {
                        cut_heads(&mut self.heads, batch.splits, *heads, threads);
                    }
                    self.push(index, group.tasks.clone(), Cut::Heads, self.heads.len());
                }
                GroupKind::Gather(rows) => self.push(index, group.tasks.clone(), Cut::Gathered, batch.rows(rows)),
            }
        }
    }

    /// The rows of a tile of a step that is cut into blocks.
    pub(super) fn block(&self, rows: Rows, tile: usize) -> Range<usize> {
        let bounds = &self.bounds[rows as usize];
        bounds[tile]..bounds[tile + 1]
    }

    fn row_wise(
        &mut self,
        program: &Program,
        index: usize,
        group: &Group,
        (rows, count): (Rows, usize),
        threads: usize,
        panels: impl Fn(usize) -> usize,
    ) {
        // A product cut by columns would have tiles all the same, of no rows, which `multiply` does not take.
        if count == 0 {
            return;
        }
        let blocks = self.bounds[rows as usize].len() - 1;
        if !is_small(count, threads) {
            return self.push(index, group.tasks.clone(), Cut::Blocks(rows), blocks);
        }
        for task in group.tasks.clone() {
            if let Task::Gemm { .. } = program.tasks[task] {
                let panels = panels(task);
                let each = panels_each(panels, threads);
                self.push(index, task..task + 1, Cut::Panels { rows: count, each }, panels.div_ceil(each));
            } else {
                self.push(index, task..task + 1, Cut::Blocks(rows), blocks);
            }
        }
    }

    fn push(&mut self, group: usize, tasks: Range<usize>, cut: Cut, tiles: usize) {
        self.steps.push(Step { group, tasks, cut });
        self.tiles.push(tiles);
    }
}

/// Whether so few rows are cut by columns.
pub(super) fn is_small(rows: usize, threads: usize) -> bool {
    rows < BLOCK_ROWS_MIN * threads
}

/// Rows that local slots must have room for.
pub(super) fn local_rows(threads: usize) -> usize {
    const { assert!(BLOCK_ROWS_MAX >= BLOCK_ROWS_MIN) };
    threads * BLOCK_ROWS_MAX
}

/// Panels of a tile: as few as keep all threads busy to the end, if all are as fast.
fn panels_each(panels: usize, threads: usize) -> usize {
    let time = |tiles: usize| panels.div_ceil(tiles * threads) * tiles;
    let tiles = (1..=COLUMN_TILES_MAX).rev().min_by_key(|tiles| time(*tiles)).unwrap_or(1);
    panels.div_ceil(tiles * threads).max(1)
}

/// Blocks of rows, large ones first, then smaller ones, so that threads end together: of each size one for each thread at
/// most, of the largest and the least as many as it takes.
fn bounds(bounds: &mut Vec<usize>, rows: usize, threads: usize) {
    bounds.clear();
    bounds.push(0);
    let min = if is_small(rows, threads) { ROWS_STEP } else { BLOCK_ROWS_MIN };
    let mut start = 0;
    while start < rows {
        let fair = (rows - start).div_ceil(2 * threads).next_multiple_of(ROWS_STEP).clamp(min, BLOCK_ROWS_MAX);
        for _ in 0..threads.min((rows - start).div_ceil(fair)) {
            start += fair.min(rows - start);
            bounds.push(start);
        }
    }
}

/// Cuts attention: by sequences, then by heads, those that share keys together, then by queries, as far as threads need it.
fn cut_heads(
    tiles: &mut Vec<Heads>,
    splits: &[usize],
    plan::Heads { count: heads, shared, .. }: plan::Heads,
    threads: usize,
) {
    let work = |keys: usize| keys * keys * heads;
    let total: usize = splits.windows(2).map(|pair| work(pair[1] - pair[0])).sum();
    let fair = (total / (ATTEND_TILES * threads)).max(1);
    for (sequence, pair) in splits.windows(2).enumerate() {
        let keys = pair[1] - pair[0];
        let parts = work(keys).div_ceil(fair).clamp(1, heads);
        let each = heads.div_ceil(parts).next_multiple_of(heads / shared);
        // Keys are packed anew for each range of queries, so queries are only cut when heads are not enough.
        let ranges = if heads >= threads { 1 } else { threads.div_ceil(heads).min(keys.div_ceil(QUERIES_MIN)) };
        for first in (0..heads).step_by(each) {
            for range in 0..ranges {
                let queries = keys * range / ranges..keys * (range + 1) / ranges;
                tiles.push(Heads { sequence, heads: first..heads.min(first + each), queries });
            }
        }
    }
}
