//! What int8 needs to know of activations: how large each column gets, and what a product loses to bytes. Learnt at load
//! from a sample, which an executor runs in other numbers. What computes the products that are tried is the executors'
//! affair as well.
//!
//! One scale has to serve a whole row of activations, so columns with larger numbers leave the others few steps. Dividing
//! columns by factors and multiplying the weights with them changes no product, and moves the difference to the weights,
//! which have scales of their own only by output: how much of it should move is tried for each weight (the idea is
//! SmoothQuant's, Xiao et al. 2022).
//!
//! The sample is made of ids spread over the vocabulary, the same for every worker, so that those on like processors choose
//! alike.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::ops::gemm::bytes::DEPTH_MAX;
use crate::plan::{Op, Plan, Rows, WeightId};

/// What a product may lose to bytes in `int8-mixed`, as a part of its output's power: on a sentence encoder of six layers
/// this leaves 0.9994 of cosine at least, and bytes about half of the work.
pub(crate) const MIXED_LOSS_MAX: f32 = 8.5e-5;

/// Lengths of the sample's sequences, where the model takes so many tokens. Short ones are as many as long ones: they are
/// mostly special tokens, whose numbers are unlike all others.
const LENGTHS: [usize; 16] = [3, 3, 3, 3, 4, 4, 5, 6, 8, 10, 12, 16, 24, 48, 96, 160];
/// Every so manieth row of a product's input is kept, to measure on.
const KEPT: usize = 3;
/// How much of the difference between columns is moved to the weights: what is tried.
const MOVED: [f32; 4] = [0.0, 0.5, 0.7, 0.85];
/// No size is taken to be smaller.
const SIZE_MIN: f32 = 1e-5;

/// Token ids of the sample, and where its sequences begin and end. `ends` are what a tokenizer puts around a text.
pub(crate) fn sample(vocabulary: usize, tokens_max: usize, ends: [Option<u32>; 2]) -> (Vec<u32>, Vec<usize>) {
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
pub(crate) struct Observer(Mutex<BTreeMap<WeightId, Seen>>);

/// What was seen of one product's input.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The largest number of each column, without its sign.
    pub(crate) largest: Vec<f32>,
    /// Some of the rows, by their numbers in the batch.
    pub(crate) rows: BTreeMap<usize, Vec<f32>>,
}

impl Observer {
    /// Takes note of a row.
    pub(crate) fn note(&self, weight: WeightId, row: usize, numbers: &[f32]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.entry(weight).or_default();
        seen.largest.resize(numbers.len(), SIZE_MIN);
        seen.largest.iter_mut().zip(numbers).for_each(|(largest, x)| *largest = largest.max(x.abs()));
        if row.is_multiple_of(KEPT) {
            seen.rows.insert(row, numbers.to_vec());
        }
    }

    pub(crate) fn seen(self) -> BTreeMap<WeightId, Seen> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a weight is best quantised.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choice {
    /// What columns of the input are divided by, and the weight's multiplied with; none where that does not pay.
    pub(crate) factors: Option<Vec<f32>>,
    /// What is lost: a row's error as a part of the row, both as sums of squares, in the mean of the rows seen.
    pub(crate) loss: f32,
}

/// The weights of the products over tokens, which may be of bytes.
pub(crate) fn products(plan: &Plan) -> Vec<WeightId> {
    let over_tokens = |op: &Op| match op {
        Op::Gemm { input, weight, .. } if plan[*input].rows == Rows::Tokens && plan[*input].width <= DEPTH_MAX => {
            Some(*weight)
        }
        _ => None,
    };
    plan.ops.iter().filter_map(over_tokens).collect()
}

/// Finds the factors that lose least. `weight` is [L, K]; `loss` says what is lost with some or with none.
///
/// # Errors
/// What `loss` says.
pub(crate) fn choose<E>(
    weight: &[f32],
    seen: &Seen,
    loss: impl Fn(Option<&[f32]>) -> Result<f32, E>,
) -> Result<Choice, E> {
    let inputs = seen.largest.len();
    let mut largest = vec![SIZE_MIN; inputs];
    for row in weight.chunks_exact(inputs) {
        largest.iter_mut().zip(row).for_each(|(largest, x)| *largest = largest.max(x.abs()));
    }
    let mut best = Choice { factors: None, loss: f32::INFINITY };
    for moved in MOVED {
        let factor = |(seen, weight): (&f32, &f32)| seen.powf(moved) / weight.powf(1.0 - moved);
        let factors = (moved > 0.0).then(|| seen.largest.iter().zip(&largest).map(factor).collect::<Vec<_>>());
        let loss = loss(factors.as_deref())?;
        if loss < best.loss {
            best = Choice { factors, loss };
        }
    }
    Ok(best)
}

/// What is lost by rows that are not quite what they should be, [rows, `width`] each. Every row counts alike, also beside
/// some with numbers far larger.
pub(crate) fn loss(found: &[f32], exact: &[f32], width: usize) -> f32 {
    let rows = found.chunks_exact(width).zip(exact.chunks_exact(width));
    let losses = rows.map(|(found, exact)| {
        let error: f32 = found.iter().zip(exact).map(|(found, exact)| (found - exact).powi(2)).sum();
        error / exact.iter().map(|x| x * x).sum::<f32>().max(SIZE_MIN)
    });
    losses.sum::<f32>() / (found.len() / width) as f32
}

/// Multiplies a row of weights with the factors.
pub(crate) fn scale(row: &mut [f32], factors: &[f32]) {
    row.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
}
