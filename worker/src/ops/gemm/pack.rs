//! Weights in the order in which tiles read them, converted once.

use half::bf16;

use super::quantise::Columns;
use crate::cpu::dot::{Bf16, Dot, F32, Int8, VECTORS};
use crate::cpu::memory::{Aligned, Plain};
use crate::cpu::simd::Simd;

/// A weight `[L, K]` and its bias, packed for one kind of dot product.
///
/// Columns of the product, which are rows of the weight, lie in panels of [`VECTORS`] vectors; the last may have fewer.
/// Within a panel, for each word of depth, its vectors lie side by side. What fills up the last vector and the last word
/// is 0.
pub(crate) struct Packed<D: Product> {
    words: Aligned<D::Words>,
    /// K
    pub(crate) inputs: usize,
    /// L
    pub(crate) outputs: usize,
    /// As long as the vectors reach.
    pub(crate) bias: Aligned<f32>,
    pub(crate) columns: D::Columns,
}

/// A kind of dot product that weights can be packed for.
pub(crate) trait Product: Dot<Words: Plain> + Sized {
    /// What columns need beside their words to become numbers again.
    type Columns: Send + Sync + std::fmt::Debug;
    /// What rows of the left operand need.
    type Row: Copy + Send + Sync;

    /// Elements of the columns in a panel, from the rows of the weight, each `inputs` long.
    fn columns(outputs: usize) -> Self::Columns;
    /// Converts row `column` of the weight; `to` takes an element at a place in the row.
    fn convert(columns: &mut Self::Columns, column: usize, row: &[f32], to: impl FnMut(usize, Self::Element));
    /// Bytes of what columns need.
    fn bytes(columns: &Self::Columns) -> usize;
}

impl<D: Product> Packed<D> {
    /// Packs a weight, of which `row` writes a row of `inputs` numbers, and its bias.
    pub(crate) fn new<E>(
        outputs: usize,
        inputs: usize,
        bias: Option<&[f32]>,
        mut row: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let lanes = D::V::LANES;
        let (steps, vectors) = (inputs.div_ceil(D::DEPTH), outputs.div_ceil(lanes));
        let mut words = Aligned::<D::Words>::zeroed(steps * vectors);
        let mut columns = D::columns(vectors * lanes);
        let mut numbers = vec![0.0; inputs];
        let elements = words.as_mut_ptr().cast::<D::Element>();
        for column in 0..outputs {
            row(column, &mut numbers)?;
            let (vector, lane) = (column / lanes, column % lanes);
            let (first, wide) = panel_of(vector, vectors);
            // Words from the start to the panel, and from one step to the next within it.
            let (start, stride) = ((first * steps + vector - first) * lanes + lane, wide * lanes);
            D::convert(&mut columns, column, &numbers, |place, element| {
                let word = start + place / D::DEPTH * stride;
                // SAFETY: step, vector and lane are within the words that were made for all of them, and a word holds
                // DEPTH elements; elements are plain.
                unsafe { elements.add(word * D::DEPTH + place % D::DEPTH).write(element) };
            });
        }
        let mut padded = Aligned::zeroed(vectors * lanes);
        if let Some(bias) = bias {
            padded[..outputs].copy_from_slice(bias);
        }
        Ok(Self { words, inputs, outputs, bias: padded, columns })
    }

    /// Words of depth.
    pub(super) fn steps(&self) -> usize {
        self.inputs.div_ceil(D::DEPTH)
    }

    pub(crate) fn panels(&self) -> usize {
        self.vectors().div_ceil(VECTORS)
    }

    pub(super) fn vectors(&self) -> usize {
        self.outputs.div_ceil(D::V::LANES)
    }

    /// The first words of a panel, and how many vectors it has.
    pub(super) fn panel(&self, panel: usize) -> (*const D::Words, usize) {
        let (first, wide) = panel_of(panel * VECTORS, self.vectors());
        (self.words[first * self.steps()..].as_ptr(), wide)
    }

    /// Where a panel begins.
    pub(crate) fn at(&self, panel: usize) -> *const u8 {
        self.panel(panel).0.cast()
    }

    /// Memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.words.bytes() + self.bias.bytes() + D::bytes(&self.columns)
    }
}

impl<D: Product> std::fmt::Debug for Packed<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed([{}, {}])", self.outputs, self.inputs)
    }
}

/// The first vector of the panel that a vector lies in, and how many it has.
fn panel_of(vector: usize, vectors: usize) -> (usize, usize) {
    let first = vector / VECTORS * VECTORS;
    (first, VECTORS.min(vectors - first))
}

impl<V: Simd> Product for F32<V>
where
    Self: Dot<Element = f32, Words: Plain>,
{
    type Columns = ();
    type Row = ();

    fn columns(_: usize) {}

    fn convert((): &mut (), _: usize, row: &[f32], mut to: impl FnMut(usize, f32)) {
        row.iter().enumerate().for_each(|(place, x)| to(place, *x));
    }

    fn bytes((): &()) -> usize {
        0
    }
}

impl Product for Bf16 {
    type Columns = ();
    type Row = ();

    fn columns(_: usize) {}

    fn convert((): &mut (), _: usize, row: &[f32], mut to: impl FnMut(usize, bf16)) {
        row.iter().enumerate().for_each(|(place, x)| to(place, bf16::from_f32(*x)));
    }

    fn bytes((): &()) -> usize {
        0
    }
}

impl Product for Int8 {
    type Columns = Columns;
    /// Scale and minimum: `x = scale · q + minimum`.
    type Row = [f32; 2];

    fn columns(outputs: usize) -> Columns {
        Columns::new(outputs)
    }

    fn convert(columns: &mut Columns, column: usize, row: &[f32], to: impl FnMut(usize, u8)) {
        columns.quantise(column, row, to);
    }

    fn bytes(columns: &Columns) -> usize {
        columns.bytes()
    }
}
