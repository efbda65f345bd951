//! Splits row-wise work over the threads, when there is enough of it.

use rayon::prelude::*;

/// Values below which splitting costs more than it gains: some microseconds of work.
const VALUES_MIN: usize = 1 << 15;

/// Calls `work` with the first row's number and some whole rows, until all rows were had.
pub(super) fn for_each_block(values: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = values.len() / width.max(1);
    let block = (VALUES_MIN / width.max(1)).max(rows.div_ceil(4 * rayon::current_num_threads())).max(1);
    if rows <= block {
        return work(0, values);
    }
    values.par_chunks_mut(block * width).enumerate().for_each(|(index, rows)| work(index * block, rows));
}
