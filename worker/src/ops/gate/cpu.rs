//! Gates of rows, vector by vector.

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::cpu::memory::{PADDING, Rows};
use crate::cpu::simd::{Number, Simd};
use crate::ops::activate::cpu::apply;
use crate::ops::normalize::cpu::load;
use crate::plan::Activation;

/// `out[r, i] = activation(input[r, i]) · input[r, width + i]` for some rows. What is written is padded with zeros to a
/// multiple of 16 columns.
///
/// # Safety
/// The processor has the instructions of `V`. Rows that are read have twice `width` columns; rows that are written reach to
/// the next multiple of 16, and nobody else uses them meanwhile.
pub(crate) unsafe fn gate<V: Simd, N: Number>(
    rows: Range<usize>,
    width: usize,
    activation: Activation,
    input: Rows<f32>,
    out: Rows<N>,
) {
    // SAFETY: the processor has the instructions; rows and columns are those that the caller answers for.
    unsafe {
        V::run(
            #[inline(always)]
            || {
                for row in rows.clone() {
                    let (from, to) = (input.starting_at(row), out.starting_at(row));
                    // Those that models are gated by get a loop each.
                    match activation {
                        Activation::Gelu => gate_row::<V, N>(width, Activation::Gelu, from, to),
                        Activation::Silu => gate_row::<V, N>(width, Activation::Silu, from, to),
                        other => gate_row::<V, N>(width, other, from, to),
                    }
                }
            },
        );
    }
}

#[inline(always)]
unsafe fn gate_row<V: Simd, N: Number>(width: usize, activation: Activation, from: Rows<f32>, to: Rows<N>) {
    // SAFETY: as the caller of `gate` promises.
    unsafe {
        for column in (0..width.next_multiple_of(PADDING)).step_by(V::LANES) {
            let mut gated = V::splat(0.0);
            if column < width {
                let count = width - column;
                let (x, by) = (load::<V>(from.at(0, column), count), load::<V>(from.at(0, width + column), count));
                let x = if N::NARROW { apply::<V, true>(activation, x) } else { apply::<V, false>(activation, x) };
                gated = V::first(count.min(V::LANES), V::mul(x, by), gated);
            }
            N::store::<V>(to.at(0, column), gated);
        }
    }
}
