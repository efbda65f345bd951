//! Norms of rows, of which the numbers may come from anywhere: read from the first cache in all passes but the first.

#[cfg(test)]
mod tests;

use half::bf16;

use crate::cpu::memory::{PADDING, Rows};
use crate::cpu::simd::Simd;
use crate::plan::NormKind;

/// What rows are normalised with: `(x - mean) / √(variance + epsilon) · gain + shift`; an RMS norm takes 0 for the mean.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm<'a> {
    pub(crate) kind: NormKind,
    /// As long as rows are wide, as is `shift`.
    pub(crate) gain: &'a [f32],
    pub(crate) shift: &'a [f32],
    pub(crate) epsilon: f32,
}

/// Where results go; both may be had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Results {
    pub(crate) wide: Option<Rows<f32>>,
    /// Rounded to bfloat16.
    pub(crate) narrow: Option<Rows<bf16>>,
}

/// Normalises `input + residual` row by row, for the first `rows` rows of all views, as wide as the norm. `wide` may be the
/// same memory as `input` or `residual`. What is written is padded with zeros to a multiple of 16 columns.
///
/// # Safety
/// The processor has the instructions of `V`. Rows that are read have the norm's columns; rows that are written reach to the
/// next multiple of 16, and nobody else uses them meanwhile.
pub(crate) unsafe fn add_norm<V: Simd>(
    rows: usize,
    norm: &Norm<'_>,
    input: Rows<f32>,
    residual: Option<Rows<f32>>,
    wide: Option<Rows<f32>>,
    narrow: Option<Rows<bf16>>,
) {
    debug_assert_eq!(norm.gain.len(), norm.shift.len());
    let results = Results { wide, narrow };
    // SAFETY: the processor has the instructions; rows and columns are those that the caller answers for. A vector of `wide`
    // is written after the last reading of the same columns.
    unsafe {
        V::run(
            #[inline(always)]
            || match residual {
                None => {
                    for row in 0..rows {
                        normalize::<V>(
                            norm,
                            row,
                            &results,
                            #[inline(always)]
                            |column, count| load::<V>(input.at(row, column), count),
                        );
                    }
                }
                Some(residual) => {
                    for row in 0..rows {
                        normalize::<V>(
                            norm,
                            row,
                            &results,
                            #[inline(always)]
                            |column, count| {
                                let x = load::<V>(input.at(row, column), count);
                                V::add(x, load::<V>(residual.at(row, column), count))
                            },
                        );
                    }
                }
            },
        );
    }
}

/// Normalises one row and writes it as row `row` of the results. `numbers` gives the vector from a column on, of which a
/// count of lanes are the row's; the others are not looked at.
///
/// # Safety
/// Within [`Simd::run`]; the rest is as for [`add_norm`].
#[inline(always)]
pub(crate) unsafe fn normalize<V: Simd>(
    norm: &Norm<'_>,
    row: usize,
    results: &Results,
    numbers: impl Fn(usize, usize) -> V::F,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let (mean, scale) = size::<V>(norm, norm.gain.len(), &numbers);
        let distances = Distances { numbers, mean, scale };
        // A loop for each: one that asks at every vector where it goes takes twice as long.
        match (results.wide, results.narrow) {
            (Some(wide), Some(narrow)) => write::<V>(
                norm,
                &distances,
                #[inline(always)]
                |column, y| {
                    V::store(wide.at(row, column), y);
                    V::store_bf16(narrow.at(row, column), y);
                },
            ),
            (Some(wide), None) => write::<V>(
                norm,
                &distances,
                #[inline(always)]
                |column, y| V::store(wide.at(row, column), y),
            ),
            (None, Some(narrow)) => write::<V>(
                norm,
                &distances,
                #[inline(always)]
                |column, y| V::store_bf16(narrow.at(row, column), y),
            ),
            (None, None) => {}
        }
    }
}

/// The mean of a row's numbers, or 0 for an RMS norm, and what brings their distances from it to one size.
///
/// # Safety
/// As for [`normalize`].
#[inline(always)]
pub(crate) unsafe fn size<V: Simd>(
    norm: &Norm<'_>,
    width: usize,
    numbers: &impl Fn(usize, usize) -> V::F,
) -> (V::F, V::F) {
    // SAFETY: as the caller promises.
    unsafe {
        let (per_width, zero) = (1.0 / width as f32, V::splat(0.0));
        let mean = match norm.kind {
            NormKind::Layer => V::splat(sum::<V>(width, numbers, zero, false) * per_width),
            NormKind::Rms => zero,
        };
        let variance = sum::<V>(width, numbers, mean, true) * per_width;
        (mean, V::splat(1.0 / (variance + norm.epsilon).sqrt()))
    }
}

/// A row, and what its numbers' distances from the mean are scaled with.
struct Distances<V: Simd, Numbers> {
    numbers: Numbers,
    mean: V::F,
    scale: V::F,
}

impl<V: Simd, Numbers: Fn(usize, usize) -> V::F> Distances<V, Numbers> {
    #[inline(always)]
    unsafe fn at(&self, column: usize, count: usize) -> V::F {
        // SAFETY: as the caller of `normalize` promises.
        unsafe { V::mul(V::sub((self.numbers)(column, count), self.mean), self.scale) }
    }
}

/// Gives `store` all vectors of a row with gain and shift, and zeros up to the end of the padding.
#[inline(always)]
unsafe fn write<V: Simd>(
    norm: &Norm<'_>,
    distances: &Distances<V, impl Fn(usize, usize) -> V::F>,
    store: impl Fn(usize, V::F),
) {
    let width = norm.gain.len();
    let (gain, shift) = (norm.gain.as_ptr(), norm.shift.as_ptr());
    // SAFETY: as the caller of `normalize` promises; gain and shift are read within their length.
    unsafe {
        let whole = width / V::LANES * V::LANES;
        for column in (0..whole).step_by(V::LANES) {
            let (gain, shift) = (V::load(gain.add(column)), V::load(shift.add(column)));
            store(column, V::fma(distances.at(column, V::LANES), gain, shift));
        }
        for column in (whole..width.next_multiple_of(PADDING)).step_by(V::LANES) {
            let mut y = V::splat(0.0);
            if column < width {
                let count = width - column;
                let (gain, shift) = (load::<V>(gain.add(column), count), load::<V>(shift.add(column), count));
                y = V::first(count, V::fma(distances.at(column, count), gain, shift), y);
            }
            store(column, y);
        }
    }
}

/// The sum of a row's numbers, or of the squares of their distances from `mean`: in four vectors side by side, so that one
/// addition need not wait for the last.
#[inline(always)]
unsafe fn sum<V: Simd>(width: usize, numbers: &impl Fn(usize, usize) -> V::F, mean: V::F, squares: bool) -> f32 {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = [V::splat(0.0); 4];
        let whole = width / V::LANES;
        for four in 0..whole / 4 {
            for (index, sum) in sums.iter_mut().enumerate() {
                let x = V::sub(numbers((four * 4 + index) * V::LANES, V::LANES), mean);
                *sum = if squares { V::fma(x, x, *sum) } else { V::add(*sum, x) };
            }
        }
        for vector in whole / 4 * 4..width.div_ceil(V::LANES) {
            let count = (width - vector * V::LANES).min(V::LANES);
            let mut x = V::sub(numbers(vector * V::LANES, count), mean);
            if count < V::LANES {
                x = V::first(count, x, V::splat(0.0));
            }
            sums[0] = if squares { V::fma(x, x, sums[0]) } else { V::add(sums[0], x) };
        }
        V::sum(V::add(V::add(sums[0], sums[1]), V::add(sums[2], sums[3])))
    }
}

/// A vector, or its first lanes where there are fewer.
#[inline(always)]
pub(crate) unsafe fn load<V: Simd>(from: *const f32, count: usize) -> V::F {
    // SAFETY: as the caller promises.
    unsafe { if count < V::LANES { V::load_first(from, count) } else { V::load(from) } }
}
