//! Products by panels: each panel of columns is used for all rows while it is near, tile by tile.

use std::ops::Range;

use super::finish::{Finish, Place};
use super::pack::Packed;
use super::tile::{Operands, tile};
use crate::cpu::dot::VECTORS;
use crate::cpu::memory::Rows;
use crate::cpu::simd::{Number, Simd};
use crate::plan::Activation;

/// Tiles at most that share in asking for the next panel, as many as a block of rows has: of hundreds each would have less
/// than a byte of it to ask for with a step.
const TILES_ASKING: usize = 12;

/// The left operand: its rows, and what each needs.
pub(crate) struct Left<D: super::pack::Product> {
    pub(crate) rows: Rows<D::Element>,
    /// In column 0, for kinds that need something.
    pub(crate) each: Rows<D::Row>,
}

/// What becomes of a product's sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Then {
    pub(crate) activation: Activation,
    /// What results are added onto, in the same rows and columns.
    pub(crate) residual: Option<Rows<f32>>,
}

impl Then {
    pub(crate) fn only(activation: Activation) -> Self {
        Self { activation, residual: None }
    }
}

/// Rows `rows` of `left` times panels `panels` of `right`, finished, into the same rows and columns of `out`. `soon` is
/// where the weights begin that this thread probably reads next; they are asked for meanwhile.
///
/// # Panics
/// If there are panels, but no row.
///
/// # Safety
/// The processor has the instructions of `D`. Rows of `left` hold whole words, and those of `out` reach to the next
/// multiple of 16 columns, as do those of the residual; nobody else uses these rows and columns of `out` meanwhile, nor
/// writes those of the residual.
pub(crate) unsafe fn multiply<D: Finish, N: Number>(
    left: &Left<D>,
    rows: Range<usize>,
    right: &Packed<D>,
    panels: Range<usize>,
    then: Then,
    out: Rows<N>,
    soon: *const u8,
) {
    // Tiles of nearly the same height: 16 rows go as 8 and 8, 9 as 5 and 4.
    let count = rows.len().div_ceil(D::ROWS);
    let first = |tile: usize| rows.start + rows.len() * tile / count;
    // SAFETY: the processor has the instructions; the rest is as the caller promises.
    unsafe {
        D::run(
            #[inline(always)]
            || {
                for panel in panels.clone() {
                    let (words, vectors) = right.panel(panel);
                    let soon = if panel + 1 < panels.end { right.at(panel + 1) } else { soon };
                    // As much as this panel is, in equal parts with each of the first tiles.
                    let asking = count.min(TILES_ASKING);
                    let part = vectors * size_of::<D::Words>() / asking;
                    let column = panel * VECTORS * D::V::LANES;
                    for index in 0..count {
                        let (row, end) = (first(index), first(index + 1));
                        let from = left.rows.at(row, 0).cast::<u32>();
                        let stride = left.rows.stride / D::DEPTH;
                        let steps = right.steps();
                        // The others ask for the first lines again, which are there.
                        let (soon, pace) =
                            if index < asking { (soon.wrapping_add(index * steps * part), part) } else { (soon, 0) };
                        let operands = Operands { left: from, stride, steps, panel: words, soon, pace };
                        let Then { activation, residual } = then;
                        let place = Place { right, each: left.each, activation, residual, out, row, column };
                        tile::<D, N>(end - row, vectors, &operands, &place);
                    }
                }
            },
        );
    }
}
