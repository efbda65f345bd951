//! The GPU's kernels for products of [bytes](super::bytes): a warp quantises a row, a block computes a tile. Products of
//! other numbers are cublasLt's.

use std::ops::Range;

use super::bytes::{DEPTH_MAX, quantise_column};
use crate::cuda::driver::{Argument, Kernel, Launch, Span};
use crate::cuda::queue::Command;
use crate::plan::Activation;

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

/// Rows that a block quantises, each a warp's.
const ROWS: usize = 4;
/// Rows of bytes are multiples of this: what is copied at a time.
const STEP: usize = 16;
/// Columns of a product are multiples of this.
const COLUMNS: usize = 8;
/// Blocks that keep a large GPU busy: there are 108 to 148 multiprocessors.
const BLOCKS_MIN: usize = 128;
/// What makes numbers of a row's bytes: a scale and a minimum.
pub(crate) const RANGE_BYTES: usize = 2 * size_of::<f32>();

/// What blocks compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    kernel: &'static str,
    /// Rows and columns.
    side: usize,
    threads: u32,
}

/// The largest first: it reads least for what it computes.
const TILES: [Tile; 3] = [
    Tile { kernel: "multiply_int8_128", side: 128, threads: 256 },
    Tile { kernel: "multiply_int8_64", side: 64, threads: 128 },
    Tile { kernel: "multiply_int8_32", side: 32, threads: 128 },
];

/// `bytes[r, k] ≈ (input[r, k] · factors[k] - minimum[r]) / scale[r]`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantise {
    pub(crate) rows: usize,
    /// K
    pub(crate) width: usize,
    /// [R, K]
    pub(crate) input: Span,
    /// [K] f32
    pub(crate) factors: Option<Span>,
    /// [R, [`stride`] of K] u8
    pub(crate) bytes: Span,
    /// [R, 2] f32: scale and minimum
    pub(crate) ranges: Span,
}

/// `output = activation(left · rightᵀ + bias) + residual`, of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MultiplyInt8 {
    pub(crate) rows: usize,
    /// Columns of the output, rows of the weight.
    pub(crate) outputs: usize,
    /// K
    pub(crate) inputs: usize,
    /// [R, [`stride`] of K] u8
    pub(crate) left: Span,
    /// [R, 2] f32
    pub(crate) ranges: Span,
    /// [L, [`stride`] of K] s8
    pub(crate) right: Span,
    /// [2, L] f32: scales, and sums
    pub(crate) columns: Span,
    /// [L] f32
    pub(crate) bias: Option<Span>,
    pub(crate) activation: Activation,
    /// [R, L]: the output itself, or apart from it.
    pub(crate) residual: Option<Span>,
    /// [R, L]
    pub(crate) output: Span,
}

/// A weight [L, K] as bytes in one piece of memory, and what goes with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Int8Weight {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// Whether rows of the input are multiplied with factors.
    pub(crate) has_factors: bool,
}

/// Bytes of a row of `inputs` numbers, filled up with zeros.
pub(crate) fn stride(inputs: usize) -> usize {
    inputs.next_multiple_of(STEP)
}

impl Quantise {
    pub(crate) fn command(&self) -> Command {
        Command::Launch(Launch {
            kernel: Kernel::plain("quantise"),
            grid: [self.rows.div_ceil(ROWS) as u32, 1, 1],
            block: 32 * ROWS as u32,
            arguments: vec![
                Argument::Input(self.input),
                Argument::optional(self.factors),
                Argument::Output(self.bytes),
                Argument::Output(self.ranges),
                Argument::integer(self.rows),
                Argument::integer(self.width),
            ],
        })
    }
}

impl MultiplyInt8 {
    /// Whether there is a kernel for such a product.
    pub(crate) fn takes(outputs: usize, inputs: usize) -> bool {
        outputs.is_multiple_of(COLUMNS) && inputs.is_multiple_of(COLUMNS) && inputs <= DEPTH_MAX
    }

    pub(crate) fn command(&self) -> Command {
        self.tiled(Tile::of(self.rows, self.outputs))
    }

    fn tiled(&self, tile: Tile) -> Command {
        let tiles = |count: usize| count.div_ceil(tile.side) as u32;
        let activation = match self.activation {
            Activation::Identity => 0,
            Activation::Gelu => 1,
            Activation::GeluTanh => 2,
            Activation::Silu => 3,
            Activation::Relu => 4,
            Activation::Tanh => 5,
        };
        Command::Launch(Launch {
            kernel: Kernel::plain(tile.kernel),
            grid: [tiles(self.outputs), tiles(self.rows), 1],
            block: tile.threads,
            arguments: vec![
                Argument::Input(self.left),
                Argument::Input(self.ranges),
                Argument::Input(self.right),
                Argument::Input(self.columns),
                Argument::optional(self.bias),
                Argument::optional(self.residual),
                Argument::Output(self.output),
                Argument::integer(self.rows),
                Argument::integer(self.outputs),
                Argument::integer(stride(self.inputs)),
                Argument::Integer(activation),
            ],
        })
    }
}

/// To hold every tile to the others.
#[cfg(any(test, feature = "gpu-check"))]
impl MultiplyInt8 {
    pub(crate) const TILES: usize = TILES.len();

    /// By one of the tiles, whatever the size.
    pub(crate) fn command_by(&self, tile: usize) -> Command {
        self.tiled(TILES[tile])
    }
}

impl Tile {
    /// The largest that leaves few multiprocessors without a block, or the smallest. Results are the same bits by any of them.
    fn of(rows: usize, outputs: usize) -> Self {
        let [largest @ .., smallest] = TILES;
        let blocks = |tile: &Self| rows.div_ceil(tile.side) * outputs.div_ceil(tile.side);
        largest.into_iter().find(|tile| blocks(tile) >= BLOCKS_MIN).unwrap_or(smallest)
    }
}

impl Int8Weight {
    /// How much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.factors_place().end
    }

    /// Where in it the bytes lie, [L, [`stride`] of K].
    pub(crate) fn matrix(&self) -> Range<usize> {
        0..self.outputs * stride(self.inputs)
    }

    /// Where what columns need does, [2, L] f32.
    pub(crate) fn columns(&self) -> Range<usize> {
        let start = self.matrix().end;
        start..start + 2 * self.outputs * size_of::<f32>()
    }

    /// Where the factors do, [K] f32.
    pub(crate) fn factors(&self) -> Option<Range<usize>> {
        self.has_factors.then(|| self.factors_place())
    }

    fn factors_place(&self) -> Range<usize> {
        let start = self.columns().end;
        start..start + if self.has_factors { self.inputs * size_of::<f32>() } else { 0 }
    }

    /// Writes it. `row` gives a row of the weight; `factors` are what columns of the input are divided by.
    ///
    /// # Errors
    /// What `row` says.
    pub(crate) fn write<E>(
        &self,
        factors: Option<&[f32]>,
        mut row: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
        to: &mut [u8],
    ) -> Result<(), E> {
        let mut numbers = vec![0.0; self.inputs];
        let (matrix, rest) = to.split_at_mut(self.matrix().end);
        let (columns, by) = rest.split_at_mut(self.columns().len());
        let (scales, sums) = columns.split_at_mut(columns.len() / 2);
        let scales = scales.as_chunks_mut::<4>().0.iter_mut().zip(sums.as_chunks_mut::<4>().0);
        for (index, (to, (scale, sum))) in matrix.chunks_exact_mut(stride(self.inputs)).zip(scales).enumerate() {
            row(index, &mut numbers)?;
            if let Some(factors) = factors {
                numbers.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
            }
            to[self.inputs..].fill(0);
            let column = quantise_column(&numbers, |place, byte| to[place] = byte.cast_unsigned());
            [*scale, *sum] = column.map(f32::to_le_bytes);
        }
        let inverse = factors.unwrap_or_default().iter().map(|factor| factor.recip().to_le_bytes());
        by.as_chunks_mut::<4>().0.iter_mut().zip(inverse).for_each(|(to, factor)| *to = factor);
        Ok(())
    }
}
