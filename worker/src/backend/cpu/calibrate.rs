//! What int8 needs to know of activations: how large each column gets, and what a product loses to bytes. Learnt at load
//! from a sample, run in bfloat16.
//!
//! One scale has to serve a whole row of activations, so columns with larger numbers leave the others few steps. Dividing
//! columns by factors and multiplying the weights with them changes no product, and moves the difference to the weights,
//! which have scales of their own only by output: how much of it should move is tried for each weight (the idea is
//! SmoothQuant's, Xiao et al. 2022).
//!
//! The sample is made of ids spread over the vocabulary, the same for every worker, so that all of them choose alike.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use half::bf16;

use crate::cpu::dot::{Bf16, Int8};
use crate::cpu::memory::{Aligned, PADDING, Rows as View};
use crate::cpu::team::Team;
use crate::model::ReadError;
use crate::model::weights::Bound;
use crate::ops::gemm::cpu::{Left, Then, multiply};
use crate::ops::gemm::pack::Packed as Matrix;
use crate::ops::gemm::quantise::quantise;
use crate::plan::{Activation, Op, Plan, Rows, WeightId};

/// Lengths of the sample's sequences, where the model takes so many tokens. Short ones are as many as long ones: they are
/// mostly special tokens, whose numbers are unlike all others.
const LENGTHS: [usize; 16] = [3, 3, 3, 3, 4, 4, 5, 6, 8, 10, 12, 16, 24, 48, 96, 160];
/// Every so manieth row of a product's input is kept, to measure on.
const KEPT: usize = 3;
/// How much of the difference between columns is moved to the weights: what is tried.
const MOVED: [f32; 4] = [0.0, 0.5, 0.7, 0.85];
/// Products that are tried while nobody else computes.
const PRODUCTS_TOGETHER: usize = 4;
/// Products of bytes that a sum of 32 bits holds for certain: 255 · 127 each.
const DEPTH_MAX: usize = (i32::MAX / (255 * 127)) as usize;
/// No size is taken to be smaller.
const SIZE_MIN: f32 = 1e-5;

/// Token ids of the sample, and where its sequences begin and end. `ends` are what a tokenizer puts around a text.
pub(super) fn sample(vocabulary: usize, tokens_max: usize, ends: [Option<u32>; 2]) -> (Vec<u32>, Vec<usize>) {
    // Knuth's multiplicative generator: any would do.
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocabulary as u64) as u32
    };
    let (mut ids, mut splits) = (Vec::new(), vec![0]);
    for length in LENGTHS.map(|length| length.min(tokens_max)) {
        let start = ids.len();
        ids.extend((0..length).map(|_| next()));
        let end = ids.len();
        let places = [start, end - 1].into_iter().zip(ends);
        places.for_each(|(place, end)| ids[place] = end.unwrap_or(ids[place]));
        splits.push(end);
    }
    (ids, splits)
}

/// What was seen of the inputs of products, by their weights.
#[derive(Debug, Default)]
pub(super) struct Observer(Mutex<BTreeMap<WeightId, Seen>>);

/// What was seen of one product's input.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The largest number of each column, without its sign.
    largest: Vec<f32>,
    /// Some of the rows, by their numbers in the batch.
    rows: BTreeMap<usize, Vec<f32>>,
}

impl Observer {
    /// Takes note of a row.
    pub(super) fn note(&self, weight: WeightId, row: usize, numbers: &[f32]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.entry(weight).or_default();
        seen.largest.resize(numbers.len(), SIZE_MIN);
        seen.largest.iter_mut().zip(numbers).for_each(|(largest, x)| *largest = largest.max(x.abs()));
        if row.is_multiple_of(KEPT) {
            seen.rows.insert(row, numbers.to_vec());
        }
    }

    pub(super) fn seen(self) -> BTreeMap<WeightId, Seen> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a weight is best quantised.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    /// What columns of the input are divided by, and the weight's multiplied with; none where that does not pay.
    pub(super) factors: Option<Vec<f32>>,
    /// What is lost: a row's error as a part of the row, both as sums of squares, in the mean of the rows seen.
    pub(super) loss: f32,
}

/// How each product over tokens is best quantised. The team shares the work, and is given back every few products.
///
/// # Errors
/// A weight that holds what is no number.
pub(super) fn choose_all<'a>(
    plan: &Plan,
    weights: &Bound<'_>,
    seen: &BTreeMap<WeightId, Seen>,
    team: impl Fn() -> MutexGuard<'a, Team>,
) -> Result<BTreeMap<WeightId, Choice>, ReadError> {
    let over_tokens = |op: &Op| match op {
        Op::Gemm { input, weight, .. } if plan[*input].rows == Rows::Tokens && plan[*input].width <= DEPTH_MAX => {
            Some(*weight)
        }
        _ => None,
    };
    let products: Vec<WeightId> = plan.ops.iter().filter_map(over_tokens).collect();
    let choices = Mutex::new(Vec::new());
    for some in products.chunks(PRODUCTS_TOGETHER) {
        team().run(&[some.len()], &|_, product, _| {
            let source = weights.weight(some[product]);
            let choice = source.read_all().map(|values| (some[product], choose(&values, &seen[&some[product]])));
            source.done();
            choices.lock().unwrap_or_else(PoisonError::into_inner).push(choice);
        });
    }
    choices.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
}

/// Finds the factors that lose least on the rows seen. `weight` is [L, K].
pub(super) fn choose(weight: &[f32], seen: &Seen) -> Choice {
    let inputs = seen.largest.len();
    let mut largest = vec![SIZE_MIN; inputs];
    for row in weight.chunks_exact(inputs) {
        largest.iter_mut().zip(row).for_each(|(largest, x)| *largest = largest.max(x.abs()));
    }
    let trial = Trial::new(weight, seen);
    let choices = MOVED.into_iter().map(|moved| {
        let factor = |(seen, weight): (&f32, &f32)| seen.powf(moved) / weight.powf(1.0 - moved);
        let factors = (moved > 0.0).then(|| seen.largest.iter().zip(&largest).map(factor).collect::<Vec<_>>());
        Choice { loss: trial.loss(factors.as_deref()), factors }
    });
    let worst = Choice { factors: None, loss: f32::INFINITY };
    choices.fold(worst, |best, choice| if choice.loss < best.loss { choice } else { best })
}

/// One product on the rows seen, exactly, to compare with.
struct Trial<'a> {
    weight: &'a [f32],
    inputs: usize,
    outputs: usize,
    rows: Vec<&'a [f32]>,
    exact: Vec<f32>,
}

impl<'a> Trial<'a> {
    fn new(weight: &'a [f32], seen: &'a Seen) -> Self {
        let inputs = seen.largest.len();
        let rows = seen.rows.values().map(Vec::as_slice).collect();
        let mut trial = Self { weight, inputs, outputs: weight.len() / inputs, rows, exact: Vec::new() };
        trial.exact = trial.in_bf16();
        trial
    }

    /// In bfloat16, which loses a hundredth of what int8 does.
    fn in_bf16(&self) -> Vec<f32> {
        let matrix = self.pack::<Bf16>(None);
        let stride = self.inputs.next_multiple_of(PADDING);
        let mut left = Aligned::<bf16>::zeroed(self.rows.len() * stride);
        for (to, row) in left.chunks_exact_mut(stride).zip(&self.rows) {
            to.iter_mut().zip(*row).for_each(|(to, x)| *to = bf16::from_f32(*x));
        }
        let each = View::new(std::ptr::NonNull::dangling().as_ptr(), 0);
        self.multiply(&Left::<Bf16> { rows: View::new(left.as_mut_ptr(), stride), each }, &matrix)
    }

    fn loss(&self, factors: Option<&[f32]>) -> f32 {
        let matrix = self.pack::<Int8>(factors);
        let stride = self.inputs.next_multiple_of(PADDING);
        let mut numbers = Aligned::<f32>::zeroed(self.rows.len() * stride);
        numbers.chunks_exact_mut(stride).zip(&self.rows).for_each(|(to, row)| to[..row.len()].copy_from_slice(row));
        let mut bytes = Aligned::<u8>::zeroed(self.rows.len() * stride);
        let mut ranges = vec![[0.0; 2]; self.rows.len()];
        let inverse: Option<Vec<f32>> = factors.map(inverse);
        let (to, each) = (View::new(bytes.as_mut_ptr(), stride), View::new(ranges.as_mut_ptr(), 1));
        // SAFETY: int8 is only chosen on processors that have the instructions; rows have the room they need.
        unsafe {
            let from = View::new(numbers.as_mut_ptr(), stride);
            quantise(0..self.rows.len(), self.inputs, from, inverse.as_deref(), to, each);
        }
        let found = self.multiply(&Left::<Int8> { rows: to, each }, &matrix);
        // Every row counts alike, also beside some with numbers far larger.
        let stride = self.outputs.next_multiple_of(PADDING);
        let rows = found.chunks_exact(stride).zip(self.exact.chunks_exact(stride));
        let losses = rows.map(|(found, exact)| {
            let error: f32 = found.iter().zip(exact).map(|(found, exact)| (found - exact).powi(2)).sum();
            error / exact.iter().map(|x| x * x).sum::<f32>().max(SIZE_MIN)
        });
        losses.sum::<f32>() / self.rows.len() as f32
    }

    fn pack<D: crate::ops::gemm::pack::Product>(&self, factors: Option<&[f32]>) -> Matrix<D> {
        let row = |row: usize, to: &mut [f32]| -> Result<(), std::convert::Infallible> {
            to.copy_from_slice(&self.weight[row * self.inputs..][..self.inputs]);
            factors.into_iter().for_each(|factors| scale(to, factors));
            Ok(())
        };
        let Ok(matrix) = Matrix::new(self.outputs, self.inputs, None, row);
        matrix
    }

    fn multiply<D: crate::ops::gemm::finish::Finish>(&self, left: &Left<D>, matrix: &Matrix<D>) -> Vec<f32> {
        let stride = self.outputs.next_multiple_of(PADDING);
        let mut out = Aligned::<f32>::zeroed(self.rows.len() * stride);
        let to = View::new(out.as_mut_ptr(), stride);
        // SAFETY: as above.
        unsafe {
            let then = Then::only(Activation::Identity);
            multiply(left, 0..self.rows.len(), matrix, 0..matrix.panels(), then, to, matrix.at(0));
        }
        out.to_vec()
    }
}

/// Multiplies a row of weights with the factors.
pub(super) fn scale(row: &mut [f32], factors: &[f32]) {
    row.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
}

/// What activations are multiplied with instead: as long as vectors reach.
pub(super) fn inverse(factors: &[f32]) -> Vec<f32> {
    factors.iter().map(|factor| factor.recip()).chain([0.0; PADDING]).collect()
}
