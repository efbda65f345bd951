//! Models that are plans, whatever runs them: rows are checked and packed, an executor runs the plan, and what comes out
//! is finished as the model's task wants it. An executor sees no request and no option, only packed sequences.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Backend, Compute, LoadError, PrepareRequest};
use crate::batch::{BatchError, DataType, HostBatch, ItemError, ItemResult};
use crate::card::{ModelCard, Task, TensorSpec};
use crate::model::weights::{Bound, Checkpoint, sha256};
use crate::model::{Model, ReadError};
use crate::plan::{Packed, Rows};
use crate::source::{ModelSource, Precision};

pub(super) mod calibrate;
pub(super) mod finish;
pub(super) mod pack;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use finish::Finish;
use pack::{Limits, Packer};

/// Tokens of the batch that is timed at load: what the shortest text comes to, with its special tokens.
const SMALLEST_TOKENS: usize = 3;
/// Times it is run; the best counts, and the first warms up.
const SMALLEST_RUNS: usize = 4;

/// Runs one plan with its weights.
pub(crate) trait Executor: Sized + Send + std::fmt::Debug + 'static {
    /// Takes what it needs of the weights, in its own form. `progress` is told the part that is done, in [0, 1].
    fn build(
        model: &Model,
        weights: &Bound<'_>,
        precision: Precision,
        compute: &Compute,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, LoadError>;

    /// What cards call it.
    fn name(&self) -> &'static str;

    /// The instruction set of its kernels, as cards say it; empty where it has none of its own.
    fn instructions(&self) -> &'static str {
        ""
    }

    /// What the weights are computed in, as cards say it: `f32`, `bf16`, `int8` or `int8-mixed`.
    fn dtype(&self) -> &'static str;

    /// Memory it holds.
    fn bytes(&self) -> u64;

    /// Runs a batch of at least one sequence; every id, type and length is within the plan's tables. `output` becomes
    /// the rows of the plan's output, one after the other.
    fn run(&mut self, batch: &Packed<'_>, output: &mut Vec<f32>) -> Result<(), BatchError>;
}

/// The models in memory, and what their batches are packed in.
#[derive(Debug)]
pub(crate) struct Planned<E> {
    models: BTreeMap<Arc<str>, Loaded<E>>,
    packer: Packer,
    output: Vec<f32>,
}

/// A model that an executor can run.
#[derive(Debug)]
pub(crate) struct Loaded<E> {
    executor: E,
    limits: Limits,
    finish: Finish,
}

impl<E> Default for Planned<E> {
    fn default() -> Self {
        Self { models: BTreeMap::new(), packer: Packer::default(), output: Vec::new() }
    }
}

impl<E: Executor> Backend for Planned<E> {
    type Prepared = Loaded<E>;
    type Ticket = Vec<ItemResult>;

    fn prepare(
        request: &PrepareRequest,
        compute: &Compute,
        progress: &mut dyn FnMut(f32),
    ) -> Result<(Loaded<E>, ModelCard), LoadError> {
        let ModelSource::Folder(folder) = &request.source else { return Err(LoadError::NoFolder) };
        let model = Model::read(folder)?;
        let build = |weights: &Bound<'_>| E::build(&model, weights, request.precision, compute, progress);
        let (mut executor, weights_sha256) = build_with(&model, build)?;
        let smallest_batch = time_smallest(&mut executor, &model)?;
        let facts = Facts {
            weights_sha256,
            bytes: executor.bytes(),
            dtype: executor.dtype(),
            backend: executor.name(),
            instructions: executor.instructions(),
            smallest_batch,
        };
        let card = card(&model, facts)?;
        Ok((Loaded { executor, limits: Limits::of(&model), finish: Finish::of(&model) }, card))
    }

    fn depth(&self) -> usize {
        1
    }

    /// No transformer is.
    fn is_brief(&self, _: &HostBatch) -> bool {
        false
    }

    fn install(&mut self, name: &Arc<str>, loaded: Loaded<E>) -> Result<(), LoadError> {
        self.models.insert(name.clone(), loaded);
        Ok(())
    }

    fn evict(&mut self, name: &str) {
        self.models.remove(name);
    }

    fn launch(&mut self, batch: &HostBatch, live: &[u32]) -> Result<Vec<ItemResult>, BatchError> {
        let Some(loaded) = self.models.get_mut(&batch.model) else {
            return Err(BatchError::Device(format!("model `{}` is not in memory", batch.model)));
        };
        let mut results = Vec::with_capacity(live.len());
        self.packer.clear();
        for &index in live {
            if let Err(problem) = self.packer.push(batch, index, &loaded.limits) {
                results.push(ItemResult { index, outcome: Err(ItemError::Input(problem)) });
            } else if self.packer.is_full(&loaded.limits) {
                loaded.run(batch, &self.packer, &mut self.output, &mut results)?;
                self.packer.clear();
            }
        }
        if !self.packer.is_empty() {
            loaded.run(batch, &self.packer, &mut self.output, &mut results)?;
        }
        Ok(results)
    }

    fn poll(&mut self, ticket: &mut Vec<ItemResult>) -> Option<Result<Vec<ItemResult>, BatchError>> {
        Some(Ok(std::mem::take(ticket)))
    }
}

impl<E: Executor> Loaded<E> {
    /// Computes the rows that were packed.
    fn run(
        &mut self,
        batch: &HostBatch,
        packer: &Packer,
        output: &mut Vec<f32>,
        results: &mut Vec<ItemResult>,
    ) -> Result<(), BatchError> {
        self.executor.run(&packer.packed(), output)?;
        let (rows, width) = (self.finish.rows(), self.finish.width());
        results.extend(packer.rows(rows).map(|(index, rows)| {
            let values = &output[rows.start * width..rows.end * width];
            let outputs = self.finish.finish(values, &batch.items[index as usize].options);
            ItemResult { index, outcome: Ok(outputs) }
        }));
        Ok(())
    }
}

/// What is known of a model once a device has it.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) weights_sha256: String,
    /// Memory it takes.
    pub(super) bytes: u64,
    pub(super) dtype: &'static str,
    pub(super) backend: &'static str,
    pub(super) instructions: &'static str,
    pub(super) smallest_batch: Duration,
}

/// Describes a model to the server.
pub(super) fn card(model: &Model, facts: Facts) -> Result<ModelCard, LoadError> {
    let Facts { weights_sha256, bytes, dtype, backend, instructions, smallest_batch } = facts;
    let tokenizer_sha256 = model.tokenizer.as_deref().map(hash_file).transpose()?;
    let (mask_token, mask_token_id) = model.mask_token.clone().unwrap_or_default();
    Ok(ModelCard {
        weights_sha256,
        architecture: model.architecture,
        task: model.task,
        dims: model.dims as u32,
        labels: model.labels.clone(),
        tokens_max: model.tokens_max as u32,
        vocabulary: model.vocabulary as u32,
        bytes,
        parameters: model.plan.parameters(),
        dtype,
        backend,
        instructions,
        tokenizer_sha256: tokenizer_sha256.unwrap_or_default(),
        inputs: inputs(model),
        outputs: outputs(model),
        normalizes: model.normalizes,
        mask_token,
        mask_token_id,
        smallest_batch,
    })
}

/// Builds something from a model's weights, and hashes their file meanwhile.
pub(super) fn build_with<T>(
    model: &Model,
    build: impl FnOnce(&Bound<'_>) -> Result<T, LoadError>,
) -> Result<(T, String), LoadError> {
    let checkpoint = Checkpoint::open(&model.weights)?;
    let weights = checkpoint.bind(&model.plan, &model.names)?;
    thread::scope(|scope| {
        let hash = scope.spawn(|| checkpoint.sha256());
        let built = build(&weights)?;
        let sha256 = hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((built, sha256))
    })
}

fn hash_file(path: &Path) -> Result<String, ReadError> {
    let failed = |source| ReadError::Io { path: path.to_owned(), source };
    sha256(&std::fs::File::open(path).map_err(failed)?).map_err(failed)
}

/// Runs the smallest batch until warm and says how long it takes.
fn time_smallest<E: Executor>(executor: &mut E, model: &Model) -> Result<Duration, LoadError> {
    let tokens = SMALLEST_TOKENS.min(model.tokens_max);
    let ids = [0; SMALLEST_TOKENS];
    let marks: &[usize] = if model.task == Task::FillMask { &[0] } else { &[] };
    let packed = Packed { ids: &ids[..tokens], types: &[], splits: &[0, tokens], marks };
    let (mut best, mut output) = (Duration::MAX, Vec::new());
    for _ in 0..SMALLEST_RUNS {
        let started = Instant::now();
        executor.run(&packed, &mut output).map_err(LoadError::Smallest)?;
        best = best.min(started.elapsed());
    }
    Ok(best)
}

fn inputs(model: &Model) -> Vec<TensorSpec> {
    let names: &[_] = if model.types > 0 { &["input_ids", "token_type_ids"] } else { &["input_ids"] };
    names.iter().map(|name| TensorSpec::new(name, DataType::I32, &[-1])).collect()
}

fn outputs(model: &Model) -> Vec<TensorSpec> {
    match model.task {
        Task::Embed => vec![TensorSpec::new("embedding", DataType::F32, &[model.dims as i64])],
        Task::Classify | Task::Rerank => vec![TensorSpec::new("scores", DataType::F32, &[model.labels.len() as i64])],
        // As many rows as masks, as many columns as candidates.
        Task::FillMask => {
            vec![
                TensorSpec::new("token_ids", DataType::I64, &[-1, -1]),
                TensorSpec::new("scores", DataType::F32, &[-1, -1]),
            ]
        }
        Task::Tensor => Vec::new(),
    }
}

/// What the output of a task's plan has one row for each of.
fn output_rows(task: Task) -> Rows {
    match task {
        Task::FillMask => Rows::Marks,
        Task::Embed | Task::Classify | Task::Rerank | Task::Tensor => Rows::Sequences,
    }
}
