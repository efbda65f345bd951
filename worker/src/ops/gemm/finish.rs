//! From the sums of a tile to numbers in memory: scales, bias, activation, rounding.

use std::arch::x86_64::{_mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps};

use super::pack::{Packed, Product};
use super::tile::Sums;
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
    pub(super) activation: Activation,
    pub(super) out: Rows<N>,
    pub(super) row: usize,
    pub(super) column: usize,
}

/// Finishes a tile of `rows` rows and `vectors` vectors and writes it.
///
/// # Safety
/// Within [`Dot::run`]; the tile lies in `right` and `out`, of which nobody else uses these rows and columns; `row` gives
/// what a row of the left operand needs, by its number in the tile.
#[inline(always)]
pub(super) unsafe fn finish<D: Finish, N: Number>(
    sums: &Sums<D>,
    rows: usize,
    vectors: usize,
    row: impl Fn(usize) -> D::Row,
    place: &Place<'_, D, N>,
) {
    macro_rules! each {
        ($($activation:ident)*) => {
            match place.activation {
                // A loop for each, so that none asks within it.
                // SAFETY: as the caller promises.
                $(Activation::$activation => unsafe {
                    write(sums, rows, vectors, row, place, #[inline(always)] |x| {
                        if N::NARROW { apply::<D::V, true>(Activation::$activation, x) } else { apply::<D::V, false>(Activation::$activation, x) }
                    });
                },)*
            }
        };
    }
    each!(Identity Gelu GeluTanh Silu Relu Tanh);
}

#[inline(always)]
unsafe fn write<D: Finish, N: Number>(
    sums: &Sums<D>,
    rows: usize,
    vectors: usize,
    row: impl Fn(usize) -> D::Row,
    place: &Place<'_, D, N>,
    activation: impl Fn(<D::V as Simd>::F) -> <D::V as Simd>::F,
) {
    for (index, sums) in sums[..rows].iter().enumerate() {
        let of_row = row(index);
        for (vector, sum) in sums[..vectors].iter().enumerate() {
            let column = place.column + vector * D::V::LANES;
            // SAFETY: as the caller of `finish` promises.
            unsafe {
                let x = D::finish(*sum, of_row, place.right, column);
                N::store::<D::V>(place.out.at(place.row + index, column), activation(x));
            }
        }
    }
}
