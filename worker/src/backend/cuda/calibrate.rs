//! Which products are of bytes, and how: what is tried for [the choice](crate::backend::planned::calibrate), on the host.
//!
//! The sample is run by candle and not on the device: where models take turns there may be no room left on it, and so
//! workers on like processors choose alike, whatever their GPUs. For as long as that takes the model is in memory in `f32` as well.

use std::collections::BTreeMap;

use candle_core::{Device, Result as CandleResult, Tensor};
use rayon::prelude::*;

use crate::backend::candle::Candle;
use crate::backend::planned::Executor as _;
use crate::backend::planned::calibrate::{self, Choice, Observer, Seen, choose, sample, scale};
use crate::backend::{Compute, LoadError};
use crate::model::Model;
use crate::model::weights::Bound;
use crate::ops::gemm::bytes::{quantise_column, quantise_row};
use crate::ops::gemm::cuda::MultiplyInt8;
use crate::plan::{Op, Packed, Rows, WeightId};
use crate::source::Precision;

/// Products that are tried side by side: each is in memory a few times over meanwhile.
const PRODUCTS_TOGETHER: usize = 4;
/// The part of the time that running the sample takes.
const SAMPLE_PART: f32 = 0.3;

/// How each product is best quantised, of those that there is a kernel for and that lose no more than `loss_max`. `progress`
/// is told the part that is done.
pub(super) fn choose_all(
    model: &Model,
    weights: &Bound<'_>,
    compute: &Compute,
    loss_max: f32,
    progress: &mut dyn FnMut(f32),
) -> Result<BTreeMap<WeightId, Choice>, LoadError> {
    let plan = &model.plan;
    // What other ops read as well stays what they read.
    let is_product = |op: &Op, id: WeightId| matches!(op, Op::Gemm { input, weight, .. } if *weight == id && plan[*input].rows == Rows::Tokens);
    let is_alone = |id: WeightId| plan.ops.iter().all(|op| is_product(op, id) || op.weights().all(|read| read != id));
    let takes = |id: &WeightId| {
        let (outputs, inputs) = plan[*id].size();
        is_alone(*id) && MultiplyInt8::takes(outputs, inputs)
    };
    let mut products: Vec<WeightId> = calibrate::products(plan).into_iter().filter(takes).collect();
    // Layers may share one.
    products.sort_unstable();
    products.dedup();
    if products.is_empty() {
        return Err(LoadError::NoProducts);
    }
    let compute = compute.with_own_pool();
    let seen = observe(model, weights, &compute, &mut |part| progress(part * SAMPLE_PART))?;
    let mut choices = BTreeMap::new();
    for (index, some) in products.chunks(PRODUCTS_TOGETHER).enumerate() {
        let done = (index * PRODUCTS_TOGETHER) as f32 / products.len() as f32;
        progress(SAMPLE_PART + done * (1.0 - SAMPLE_PART));
        let choice = |id: &WeightId| {
            let source = weights.weight(*id);
            let values = source.read_all()?;
            source.done();
            let trial = Trial::new(&values, &seen[id])?;
            Ok((*id, choose(&values, &seen[id], |factors| trial.loss(factors))?))
        };
        let found: Result<Vec<_>, LoadError> = compute.pool()?.install(|| some.par_iter().map(choice).collect());
        choices.extend(found?.into_iter().filter(|(_, choice)| choice.loss <= loss_max));
    }
    Ok(choices)
}

/// What products get when the sample is run.
fn observe(
    model: &Model,
    weights: &Bound<'_>,
    compute: &Compute,
    progress: &mut dyn FnMut(f32),
) -> Result<BTreeMap<WeightId, Seen>, LoadError> {
    let mut candle = Candle::build(model, weights, Precision::F32, compute, progress)?;
    let (ids, splits) = sample(model.vocabulary, model.tokens_max, model.sequence_ends());
    let observer = Observer::default();
    let packed = Packed { ids: &ids, types: &[], splits: &splits, marks: &[] };
    candle.observe(&packed, &observer).map_err(LoadError::Sample)?;
    Ok(observer.seen())
}

/// One product on the rows seen, exactly, to compare with.
struct Trial<'a> {
    /// [L, K]
    weight: &'a [f32],
    inputs: usize,
    /// [R, K]
    rows: Vec<f32>,
    /// [R, L]
    exact: Vec<f32>,
}

impl<'a> Trial<'a> {
    fn new(weight: &'a [f32], seen: &Seen) -> CandleResult<Self> {
        let rows: Vec<f32> = seen.rows.values().flatten().copied().collect();
        let mut trial = Self { weight, inputs: seen.largest.len(), rows, exact: Vec::new() };
        trial.exact = trial.multiply(trial.rows.clone(), weight.to_vec())?;
        Ok(trial)
    }

    /// With both sides as the numbers that their bytes stand for.
    fn loss(&self, factors: Option<&[f32]>) -> Result<f32, LoadError> {
        let (mut rows, mut weight) = (self.rows.clone(), self.weight.to_vec());
        weight.par_chunks_exact_mut(self.inputs).for_each(|column| {
            factors.into_iter().for_each(|factors| scale(column, factors));
            let mut bytes = vec![0.0; column.len()];
            let [scale, _] = quantise_column(column, |place, byte| bytes[place] = f32::from(byte));
            column.iter_mut().zip(bytes).for_each(|(x, byte)| *x = scale * byte);
        });
        let inverse: Option<Vec<f32>> = factors.map(|factors| factors.iter().map(|factor| factor.recip()).collect());
        rows.par_chunks_exact_mut(self.inputs).for_each(|row| {
            inverse.iter().for_each(|inverse| scale(row, inverse));
            let mut bytes = vec![0.0; row.len()];
            let [scale, minimum] = quantise_row(row, |place, byte| bytes[place] = f32::from(byte));
            row.iter_mut().zip(bytes).for_each(|(x, byte)| *x = scale * byte + minimum);
        });
        let found = self.multiply(rows, weight)?;
        Ok(calibrate::loss(&found, &self.exact, self.weight.len() / self.inputs))
    }

    /// [R, K] · [L, K]ᵀ
    fn multiply(&self, rows: Vec<f32>, weight: Vec<f32>) -> CandleResult<Vec<f32>> {
        let matrix = |numbers: Vec<f32>| {
            let shape = (numbers.len() / self.inputs, self.inputs);
            Tensor::from_vec(numbers, shape, &Device::Cpu)
        };
        matrix(rows)?.matmul(&matrix(weight)?.t()?)?.flatten_all()?.to_vec1()
    }
}

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;
