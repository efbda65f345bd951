//! From the sums of a tile to numbers in memory: scales, bias, activation, what they are added onto, rounding.

use std::arch::x86_64::{_mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps};

use super::pack::{Packed, Product};
use crate::cpu::dot::{Bf16, Dot, F32, Int8};
use crate::cpu::memory::{Plain, Rows};
use crate::cpu::simd::{Number, Simd};
use crate::ops::activate::cpu::apply;
use crate::plan::Activation;

/// How sums become numbers.
pub(crate) trait Finish: Product {
    /// Sums of one row and one vector of columns, from column `column` on, with the bias added.
    ///
    /// # Safety
    /// Within [`Dot::run`]; `column` is the first of one of the vectors of `right`.
    unsafe fn finish(
        sums: <Self as Dot>::Sums,
        row: Self::Row,
        right: &Packed<Self>,
        column: usize,
    ) -> <Self::V as Simd>::F;
}

impl<V: Simd> Finish for F32<V>
where
    Self: Product<V = V, Element = f32, Words: Plain, Sums = V::F, Row = (), Columns = ()>,
{
    #[inline(always)]
    unsafe fn finish(sums: V::F, (): (), right: &Packed<Self>, column: usize) -> V::F {
        // SAFETY: as the caller promises; the bias is as long as the vectors reach.
        unsafe { V::add(sums, V::load(right.bias.as_ptr().add(column))) }
    }
}

impl Finish for Bf16 {
    #[inline(always)]
    unsafe fn finish(sums: <Self as Dot>::Sums, (): (), right: &Packed<Self>, column: usize) -> <Self::V as Simd>::F {
        // SAFETY: as above.
        unsafe { Self::V::add(sums, Self::V::load(right.bias.as_ptr().add(column))) }
    }
}

impl Finish for Int8 {
    #[inline(always)]
    unsafe fn finish(
        sums: <Self as Dot>::Sums,
        [scale, minimum]: [f32; 2],
        right: &Packed<Self>,
        column: usize,
    ) -> <Self::V as Simd>::F {
        // SAFETY: as above, and so are the scales and sums of columns.
        unsafe {
            let of = |values: &[f32]| _mm512_loadu_ps(values.as_ptr().add(column));
            let offset = _mm512_fmadd_ps(_mm512_set1_ps(minimum), of(&right.columns.sums), of(&right.bias));
            let scale = _mm512_mul_ps(_mm512_set1_ps(scale), of(&right.columns.scales));
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scale, offset)
        }
    }
}

/// Where a tile goes: its first row and column in `out`, and what it is finished with.
pub(super) struct Place<'a, D: Product, N> {
    pub(super) right: &'a Packed<D>,
    /// What the rows of the left operand need, in column 0.
    pub(super) each: Rows<D::Row>,
    pub(super) activation: Activation,
    /// What results are added onto, where `out` is.
    pub(super) residual: Option<Rows<f32>>,
    pub(super) out: Rows<N>,
    pub(super) row: usize,
    pub(super) column: usize,
}

/// Finishes the sums of a tile and writes it.
///
/// # Safety
/// Within [`Dot::run`]; the tile lies in `right` and `out`, of which nobody else uses these rows and columns.
#[inline(always)]
pub(super) unsafe fn finish<D: Finish, N: Number, const ROWS: usize, const COLUMNS: usize>(
    sums: &[[D::Sums; COLUMNS]; ROWS],
    place: &Place<'_, D, N>,
) {
    // The activations that a layer has many rows of get a loop each, in which sums come from registers.
    // SAFETY: as the caller promises.
    unsafe {
        match (place.activation, place.residual) {
            (Activation::Identity, None) => write(
                sums,
                place,
                #[inline(always)]
                |_, _, x| x,
            ),
            (Activation::Identity, Some(residual)) => write(
                sums,
                place,
                #[inline(always)]
                |row, column, x| D::V::add(x, D::V::load(residual.at(row, column))),
            ),
            (Activation::Gelu, None) => write(
                sums,
                place,
                #[inline(always)]
                |_, _, x| activate::<D, N>(Activation::Gelu, x),
            ),
            _ => finish_rare(sums.as_flattened(), COLUMNS, place),
        }
    }
}

#[inline(always)]
unsafe fn activate<D: Finish, N: Number>(activation: Activation, x: <D::V as Simd>::F) -> <D::V as Simd>::F {
    // SAFETY: as the caller of `finish` promises.
    unsafe { if N::NARROW { apply::<D::V, true>(activation, x) } else { apply::<D::V, false>(activation, x) } }
}

#[inline(always)]
unsafe fn write<D: Finish, N: Number, const ROWS: usize, const COLUMNS: usize>(
    sums: &[[D::Sums; COLUMNS]; ROWS],
    place: &Place<'_, D, N>,
    then: impl Fn(usize, usize, <D::V as Simd>::F) -> <D::V as Simd>::F,
) {
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: as the caller of `finish` promises.
        let each = unsafe { place.each.at(place.row + row, 0).read() };
        for (vector, sum) in sums.iter().enumerate() {
            let column = place.column + vector * D::V::LANES;
            // SAFETY: as above.
            unsafe {
                let x = D::finish(*sum, each, place.right, column);
                N::store::<D::V>(place.out.at(place.row + row, column), then(place.row + row, column, x));
            }
        }
    }
}

/// The same from memory, for any size, with the other activations.
#[inline(never)]
unsafe fn finish_rare<D: Finish, N: Number>(sums: &[D::Sums], columns: usize, place: &Place<'_, D, N>) {
    // SAFETY: as the caller of `finish` promises; this is within `D::run`, but compiled apart from it.
    unsafe {
        D::run(
            #[inline(always)]
            || {
                for (index, sum) in sums.iter().enumerate() {
                    let (row, column) = (place.row + index / columns, place.column + index % columns * D::V::LANES);
                    let x = D::finish(*sum, place.each.at(row, 0).read(), place.right, column);
                    let mut x = activate::<D, N>(place.activation, x);
                    if let Some(residual) = place.residual {
                        x = D::V::add(x, D::V::load(residual.at(row, column)));
                    }
                    N::store::<D::V>(place.out.at(row, column), x);
                }
            },
        );
    }
}
