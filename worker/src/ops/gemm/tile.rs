//! The loop that everything else is for: a block of rows times a panel of columns, with all sums in registers.

use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

use super::finish::{Finish, Place, finish};
use crate::cpu::dot::Dot;
use crate::cpu::memory::LINE;
use crate::cpu::simd::Number;

/// Steps that packed columns are asked for ahead of their use, from the second cache into the first.
const AHEAD: usize = 16;

/// What a tile is computed from: rows of the left operand, `stride` words apart, and a panel of the right one.
pub(super) struct Operands<D: Dot> {
    pub(super) left: *const u32,
    pub(super) stride: usize,
    /// Words of depth.
    pub(super) steps: usize,
    pub(super) panel: *const D::Words,
    /// What is read soon, and how far that moves with each step, in bytes. A line of it for each vector is asked for, from
    /// the last cache or from memory into the second one: weights are many, and wait for their turn there.
    pub(super) soon: *const u8,
    pub(super) pace: usize,
}

/// Computes `rows` rows of a panel of `vectors` vectors, finishes and writes them.
///
/// # Safety
/// Within [`Dot::run`]; rows are at most [`Dot::ROWS`] and have the words of depth, as has the panel in each vector. The
/// place is one that nobody else uses.
#[inline(always)]
pub(super) unsafe fn tile<D: Finish, N: Number>(
    rows: usize,
    vectors: usize,
    operands: &Operands<D>,
    place: &Place<'_, D, N>,
) {
    macro_rules! sizes {
        ($($rows:literal)*) => {
            match (rows, vectors) {
                $(
                    // SAFETY: as the caller promises.
                    ($rows, 3) => unsafe { sized::<D, N, $rows, 3>(operands, place) },
                    // SAFETY: as above.
                    ($rows, 2) => unsafe { sized::<D, N, $rows, 2>(operands, place) },
                    // SAFETY: as above.
                    ($rows, 1) => unsafe { sized::<D, N, $rows, 1>(operands, place) },
                )*
                _ => unreachable!("a tile has 1 to 8 rows and 1 to 3 vectors"),
            }
        };
    }
    if D::ROWS <= 4 { sizes!(1 2 3 4) } else { sizes!(1 2 3 4 5 6 7 8) }
}

/// Its own function, so that the compiler has all registers for it; it is called once for hundreds of steps.
#[inline(never)]
unsafe fn sized<D: Finish, N: Number, const ROWS: usize, const COLUMNS: usize>(
    operands: &Operands<D>,
    place: &Place<'_, D, N>,
) {
    // SAFETY: as the caller of `tile` promises; this is within `D::run`, but compiled apart from it.
    unsafe {
        D::run(
            #[inline(always)]
            || {
                let sums = sums::<D, ROWS, COLUMNS>(operands);
                finish(&sums, place);
            },
        );
    }
}

#[inline(always)]
unsafe fn sums<D: Dot, const ROWS: usize, const COLUMNS: usize>(operands: &Operands<D>) -> [[D::Sums; COLUMNS]; ROWS] {
    // SAFETY: as the caller of `tile` promises.
    unsafe {
        let mut sums = [[D::zero(); COLUMNS]; ROWS];
        let (mut right, mut soon) = (operands.panel, operands.soon);
        for step in 0..operands.steps {
            let mut columns = [D::load(right); COLUMNS];
            for (vector, column) in columns.iter_mut().enumerate() {
                *column = D::load(right.add(vector));
                _mm_prefetch::<_MM_HINT_T0>(right.wrapping_add(AHEAD * COLUMNS + vector).cast());
                _mm_prefetch::<_MM_HINT_T1>(soon.wrapping_add(LINE * vector).cast());
            }
            soon = soon.wrapping_add(operands.pace);
            for (row, sums) in sums.iter_mut().enumerate() {
                let word = D::broadcast(operands.left.add(row * operands.stride + step));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = D::dot(*sum, word, column);
                }
            }
            right = right.add(COLUMNS);
        }
        sums
    }
}
