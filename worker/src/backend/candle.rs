//! Embedding models in float32 by candle-core, on any processor: the portable backend, and the yardstick for others.
//!
//! A batch runs packed, its tokens one after the other with no padding. It is cut into chunks of whole sequences that
//! run side by side, each through the whole model on one thread: a chunk's numbers stay in its core's cache, and threads
//! wait for each other only at the end. What a single chunk has to offer, products and ops split by themselves.
//!
//! A row's result depends on its mates only in the last bits: products over more rows may add up in another order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rayon::prelude::*;

use super::{Backend, Compute, LoadError, PrepareRequest, expect_precision};
use crate::batch::{BatchError, DataType, HostBatch, ItemError, ItemOptions, ItemResult, Tensor};
use crate::card::{ModelCard, Task, TensorSpec};
use crate::model::ReadError;
use crate::model::bert::{self, Bert};
use crate::model::folder::Folder;
use crate::model::weights::{WeightsFile, sha256};
use crate::ops::pool::{Pool, Pooling};
use crate::source::{ModelSource, Precision};

#[cfg(test)]
mod tests;

/// Tokens in a chunk at most, unless one sequence has more: their widest matrix fits a core's cache.
const CHUNK_TOKENS_MAX: usize = 512;
/// Fewer tokens are not worth a chunk: the weights would be read for too little.
const CHUNK_TOKENS_MIN: usize = 64;
/// Tokens of the batch that is timed at load: what the shortest text comes to, with its special tokens.
const SMALLEST_TOKENS: usize = 3;
/// Times it is run; the best counts, and the first warms up.
const SMALLEST_RUNS: usize = 4;

/// The models in memory.
#[derive(Debug)]
pub(crate) struct Candle {
    compute: Compute,
    models: BTreeMap<Arc<str>, Embedder>,
}

/// An encoder and what follows it.
#[derive(Debug)]
pub(crate) struct Embedder {
    encoder: Bert,
    pooling: Pooling,
    normalizes: bool,
    dims: usize,
    tokens_max: usize,
    vocabulary: usize,
}

impl Candle {
    pub(crate) fn new(compute: Compute) -> Self {
        Self { compute, models: BTreeMap::new() }
    }
}

impl Backend for Candle {
    type Prepared = Embedder;
    type Ticket = Vec<ItemResult>;

    fn prepare(
        request: &PrepareRequest,
        compute: &Compute,
        progress: &mut dyn FnMut(f32),
    ) -> Result<(Embedder, ModelCard), LoadError> {
        let dtype = expect_precision("candle", request.precision, Precision::F32)?;
        let ModelSource::Folder(path) = &request.source else { return Err(LoadError::NoFolder) };
        let folder = Folder::read(path)?;
        let embedder = Embedder::read(&folder, progress)?;
        let weights_sha256 = sha256(&folder.weights, &mut |part| progress(0.5 + 0.5 * part))?;
        let tokenizer_sha256 = folder.tokenizer.as_deref().map(|path| sha256(path, &mut |_| {})).transpose()?;
        let smallest_batch = compute.pool.install(|| embedder.time_smallest()).map_err(ReadError::from)?;
        let card = ModelCard {
            weights_sha256,
            architecture: "bert",
            task: Task::Embed,
            dims: embedder.dims as u32,
            labels: Vec::new(),
            tokens_max: embedder.tokens_max as u32,
            vocabulary: embedder.vocabulary as u32,
            bytes: embedder.encoder.parameters() * size_of::<f32>() as u64,
            parameters: embedder.encoder.parameters(),
            dtype,
            backend: "candle",
            tokenizer_sha256: tokenizer_sha256.unwrap_or_default(),
            inputs: vec![TensorSpec::new("input_ids", DataType::I32, &[-1])],
            outputs: vec![TensorSpec::new("embedding", DataType::F32, &[embedder.dims as i64])],
            normalizes: embedder.normalizes,
            mask_token: String::new(),
            mask_token_id: 0,
            smallest_batch,
        };
        Ok((embedder, card))
    }

    fn depth(&self) -> usize {
        1
    }

    /// No transformer is.
    fn is_brief(&self, _: &HostBatch) -> bool {
        false
    }

    fn install(&mut self, name: &Arc<str>, embedder: Embedder) -> Result<(), LoadError> {
        self.models.insert(name.clone(), embedder);
        Ok(())
    }

    fn evict(&mut self, name: &str) {
        self.models.remove(name);
    }

    fn launch(&mut self, batch: &HostBatch, live: &[u32]) -> Result<Vec<ItemResult>, BatchError> {
        let Some(embedder) = self.models.get(&batch.model) else {
            return Err(BatchError::Device(format!("model `{}` is not in memory", batch.model)));
        };
        embedder.run(batch, live, &self.compute).map_err(|error| BatchError::Device(error.to_string()))
    }

    fn poll(&mut self, ticket: &mut Vec<ItemResult>) -> Option<Result<Vec<ItemResult>, BatchError>> {
        Some(Ok(std::mem::take(ticket)))
    }
}

/// The rows of a batch that can be computed, packed.
#[derive(Debug, Default)]
struct Packed {
    ids: Vec<u32>,
    /// Where sequences begin and, last, where they end.
    splits: Vec<usize>,
    /// Their positions in the batch.
    rows: Vec<u32>,
}

impl Embedder {
    fn read(folder: &Folder, progress: &mut dyn FnMut(f32)) -> Result<Self, ReadError> {
        let file = WeightsFile::open(&folder.weights)?;
        let weights = file.tensors(bert::PROBE, bert::PREFIXES)?;
        let config = &folder.config;
        let encoder = Bert::read(config, &weights, &mut |part| progress(0.5 * part))?;
        Ok(Self {
            encoder,
            pooling: folder.pooling,
            normalizes: folder.normalizes,
            dims: config.hidden_size,
            tokens_max: folder.tokens_max,
            vocabulary: config.vocab_size,
        })
    }

    fn run(&self, batch: &HostBatch, live: &[u32], compute: &Compute) -> candle_core::Result<Vec<ItemResult>> {
        let (packed, mut results) = self.pack(batch, live);
        let chunks = chunks(&packed.splits, compute.threads());
        let embeddings: Vec<Vec<f32>> = compute
            .pool
            .install(|| chunks.par_iter().map(|chunk| self.embed(&packed, chunk.clone())).collect::<Result<_, _>>())?;
        let name: Arc<str> = "embedding".into();
        let rows = embeddings.iter().flat_map(|chunk| chunk.chunks_exact(self.dims));
        for (&index, embedding) in packed.rows.iter().zip(rows) {
            let options = &batch.items[index as usize].options;
            results.push(ItemResult { index, outcome: Ok(vec![self.finish(&name, embedding, options)]) });
        }
        Ok(results)
    }

    /// Sorts live rows into those to compute, packed, and those that cannot be, with the reason.
    fn pack(&self, batch: &HostBatch, live: &[u32]) -> (Packed, Vec<ItemResult>) {
        let mut packed = Packed { splits: vec![0], ..Packed::default() };
        let mut refused = Vec::new();
        for &index in live {
            let row = index as usize;
            let bytes = batch.columns[0].row(row);
            let ids = bytes.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes));
            match self.check(ids.clone(), &batch.items[row].options) {
                Ok(()) => {
                    packed.ids.extend(ids.map(i32::cast_unsigned));
                    packed.splits.push(packed.ids.len());
                    packed.rows.push(index);
                }
                Err(problem) => refused.push(ItemResult { index, outcome: Err(ItemError::Input(problem)) }),
            }
        }
        (packed, refused)
    }

    fn check(&self, mut ids: impl ExactSizeIterator<Item = i32>, options: &ItemOptions) -> Result<(), String> {
        let (tokens, dims) = (ids.len(), self.dims);
        if tokens == 0 {
            return Err("input_ids is empty".to_owned());
        }
        if tokens > self.tokens_max {
            return Err(format!("input_ids has {tokens} tokens, and the model takes {} at most", self.tokens_max));
        }
        if let Some(id) = ids.find(|id| usize::try_from(*id).map_or(true, |id| id >= self.vocabulary)) {
            return Err(format!("input_ids holds {id}, and ids are from 0 to {}", self.vocabulary - 1));
        }
        if options.dimensions as usize > dims {
            return Err(format!("dimensions is {}, and the model has {dims}", options.dimensions));
        }
        Ok(())
    }

    /// Some of the packed sequences in, a row of `dims` for each out.
    fn embed(&self, packed: &Packed, sequences: Range<usize>) -> candle_core::Result<Vec<f32>> {
        let bounds = &packed.splits[sequences.start..=sequences.end];
        let (start, end) = (bounds[0], bounds[bounds.len() - 1]);
        let splits: Vec<usize> = bounds.iter().map(|split| split - start).collect();
        let hidden = self.encoder.forward(&packed.ids[start..end], &splits)?;
        let pooled = hidden.apply_op1_no_bwd(&Pool { pooling: self.pooling, splits: &splits })?;
        pooled.flatten_all()?.to_vec1()
    }

    /// Cuts an embedding to what was asked for and normalises it.
    fn finish(&self, name: &Arc<str>, embedding: &[f32], options: &ItemOptions) -> Tensor {
        let kept = match options.dimensions {
            0 => embedding,
            dimensions => &embedding[..dimensions as usize],
        };
        let scale = if options.normalize.unwrap_or(self.normalizes) {
            // As sentence-transformers does: a vector of zeros stays one.
            1.0 / kept.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12)
        } else {
            1.0
        };
        let data: Vec<u8> = kept.iter().flat_map(|x| (x * scale).to_le_bytes()).collect();
        let shape = vec![kept.len() as i64];
        Tensor { name: name.clone(), data_type: DataType::F32, shape, data: Bytes::from(data) }
    }

    /// Runs the smallest batch until warm and says how long it takes.
    fn time_smallest(&self) -> candle_core::Result<std::time::Duration> {
        let tokens = SMALLEST_TOKENS.min(self.tokens_max);
        let packed = Packed { ids: vec![0; tokens], splits: vec![0, tokens], rows: vec![0] };
        let mut best = std::time::Duration::MAX;
        for _ in 0..SMALLEST_RUNS {
            let started = Instant::now();
            self.embed(&packed, 0..1)?;
            best = best.min(started.elapsed());
        }
        Ok(best)
    }
}

/// Ranges of sequences to run side by side: enough for every thread, none too large for a core's cache, and smaller ones
/// last, so that threads end together.
fn chunks(splits: &[usize], threads: usize) -> Vec<Range<usize>> {
    let (sequences, total) = (splits.len() - 1, splits[splits.len() - 1]);
    let mut chunks = Vec::new();
    let mut start = 0;
    while start < sequences {
        let left = total - splits[start];
        let wanted = left.div_ceil(2 * threads).clamp(CHUNK_TOKENS_MIN, CHUNK_TOKENS_MAX);
        let mut end = start + 1;
        while end < sequences && splits[end + 1] - splits[start] <= wanted {
            end += 1;
        }
        chunks.push(start..end);
        start = end;
    }
    chunks
}
