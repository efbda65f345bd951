//! Rows of `f32` as operands in bfloat16.

use std::ops::Range;

use half::bf16;

use crate::cpu::memory::{PADDING, Rows};
use crate::cpu::simd::{Number, Simd};

/// Rounds rows `rows` of `from`, `width` numbers each and up to the next multiple of 16 columns, into `to`.
///
/// # Safety
/// The processor has the instructions of `V`. Rows of both reach to the next multiple of 16 columns; nobody else uses
/// those of `to` meanwhile.
pub(crate) unsafe fn round<V: Simd>(rows: Range<usize>, width: usize, from: Rows<f32>, to: Rows<bf16>) {
    // SAFETY: the processor has the instructions; the rest is as the caller promises.
    unsafe {
        V::run(
            #[inline(always)]
            || {
                for row in rows {
                    for column in (0..width.next_multiple_of(PADDING)).step_by(V::LANES) {
                        bf16::store::<V>(to.at(row, column), V::load(from.at(row, column)));
                    }
                }
            },
        );
    }
}
