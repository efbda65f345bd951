//! Which products are of bytes, and how: what is tried for [the choice](crate::backend::planned::calibrate), by AVX-512.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use half::bf16;

use crate::backend::planned::calibrate::{self, Choice, Seen, choose};
use crate::cpu::dot::{Bf16, Int8};
use crate::cpu::memory::{Aligned, PADDING, Rows as View};
use crate::cpu::team::Team;
use crate::model::ReadError;
use crate::model::weights::Bound;
use crate::ops::gemm::cpu::{Left, Then, multiply};
use crate::ops::gemm::pack::Packed as Matrix;
use crate::ops::gemm::quantise::quantise;
use crate::plan::{Activation, Plan, WeightId};

/// Products that are tried while nobody else computes.
const PRODUCTS_TOGETHER: usize = 4;

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
    let choices = Mutex::new(Vec::new());
    for some in calibrate::products(plan).chunks(PRODUCTS_TOGETHER) {
        team().run(&[some.len()], &|_, product, _| {
            let source = weights.weight(some[product]);
            let choice = source.read_all().and_then(|values| {
                let seen = &seen[&some[product]];
                let trial = Trial::new(&values, seen);
                let choice = choose(&values, seen, |factors| Ok(trial.loss(factors)));
                choice.map(|choice| (some[product], choice))
            });
            source.done();
            choices.lock().unwrap_or_else(PoisonError::into_inner).push(choice);
        });
    }
    choices.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
}

/// One product on the rows seen, exactly, to compare with.
pub(in crate::backend) struct Trial<'a> {
    weight: &'a [f32],
    inputs: usize,
    outputs: usize,
    rows: Vec<&'a [f32]>,
    exact: Vec<f32>,
}

impl<'a> Trial<'a> {
    pub(in crate::backend) fn new(weight: &'a [f32], seen: &'a Seen) -> Self {
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

    pub(in crate::backend) fn loss(&self, factors: Option<&[f32]>) -> f32 {
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
        // What fills rows up is 0 in both.
        calibrate::loss(&found, &self.exact, self.outputs.next_multiple_of(PADDING))
    }

    fn pack<D: crate::ops::gemm::pack::Product>(&self, factors: Option<&[f32]>) -> Matrix<D> {
        let row = |row: usize, to: &mut [f32]| -> Result<(), std::convert::Infallible> {
            to.copy_from_slice(&self.weight[row * self.inputs..][..self.inputs]);
            factors.into_iter().for_each(|factors| calibrate::scale(to, factors));
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

/// What activations are multiplied with instead: as long as vectors reach.
pub(super) fn inverse(factors: &[f32]) -> Vec<f32> {
    factors.iter().map(|factor| factor.recip()).chain([0.0; PADDING]).collect()
}
