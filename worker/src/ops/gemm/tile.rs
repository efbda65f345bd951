//! The loop that everything else is for: a block of rows times a panel of columns, with all sums in registers.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use crate::cpu::dot::{Dot, VECTORS};

/// Steps that packed columns are asked for ahead of their use. Weights that come from the last cache or from memory need
/// it; to those that are near it costs nothing.
const AHEAD: usize = 16;

/// The sums of a tile, [`VECTORS`] for each row.
pub(super) type Sums<D> = [[<D as Dot>::Sums; VECTORS]; 8];

/// Rows `0..rows` of `left`, `stride` words apart, times one panel of `vectors` vectors: `steps` words of depth.
///
/// # Safety
/// Within [`Dot::run`]; rows are at most [`Dot::ROWS`] and have `steps` words; the panel has `steps · vectors` vectors.
#[inline(always)]
pub(super) unsafe fn tile<D: Dot>(
    rows: usize,
    left: *const u32,
    stride: usize,
    steps: usize,
    panel: *const D::Words,
    vectors: usize,
    sums: &mut Sums<D>,
) {
    macro_rules! sizes {
        ($($rows:literal)*) => {
            match (rows, vectors) {
                $(
                    // SAFETY: as the caller promises.
                    ($rows, 3) => unsafe { sized::<D, $rows, 3>(left, stride, steps, panel, sums) },
                    // SAFETY: as above.
                    ($rows, 2) => unsafe { sized::<D, $rows, 2>(left, stride, steps, panel, sums) },
                    // SAFETY: as above.
                    ($rows, 1) => unsafe { sized::<D, $rows, 1>(left, stride, steps, panel, sums) },
                )*
                _ => unreachable!("a tile has 1 to 8 rows and 1 to 3 vectors"),
            }
        };
    }
    if D::ROWS <= 4 { sizes!(1 2 3 4) } else { sizes!(1 2 3 4 5 6 7 8) }
}

/// Its own function, so that the compiler has all registers for it; it is called once for hundreds of steps.
#[inline(never)]
unsafe fn sized<D: Dot, const ROWS: usize, const COLUMNS: usize>(
    left: *const u32,
    stride: usize,
    steps: usize,
    panel: *const D::Words,
    out: &mut Sums<D>,
) {
    // SAFETY: as the caller of `tile` promises; this is within `D::run`, but compiled apart from it.
    unsafe {
        D::run(
            #[inline(always)]
            || {
                let mut sums = [[D::zero(); COLUMNS]; ROWS];
                let mut right = panel;
                for step in 0..steps {
                    let mut columns = [D::load(right); COLUMNS];
                    for (vector, column) in columns.iter_mut().enumerate() {
                        *column = D::load(right.add(vector));
                        _mm_prefetch::<_MM_HINT_T0>(right.wrapping_add(AHEAD * COLUMNS + vector).cast());
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let word = D::broadcast(left.add(row * stride + step));
                        for (sum, column) in sums.iter_mut().zip(columns) {
                            *sum = D::dot(*sum, word, column);
                        }
                    }
                    right = right.add(COLUMNS);
                }
                for (out, sums) in out.iter_mut().zip(sums) {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = sum;
                    }
                }
            },
        );
    }
}
