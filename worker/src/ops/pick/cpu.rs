//! Copies of rows; what copies memory has vectors of its own.

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::cpu::memory::Rows;

/// Copies the rows of marks `rows` into the same rows of `out`, `width` elements each: a row's padding, too, where `width`
/// takes it in.
///
/// # Safety
/// Marked rows of `input` can be read and rows `rows` of `out` written, `width` elements each; they do not overlap, and
/// nobody else uses the latter meanwhile.
pub(crate) unsafe fn pick<T: Copy>(marks: &[usize], rows: Range<usize>, width: usize, input: Rows<T>, out: Rows<T>) {
    for row in rows {
        // SAFETY: as the caller promises.
        unsafe { out.at(row, 0).copy_from_nonoverlapping(input.at(marks[row], 0), width) };
    }
}
