//! Whole models through the backend, as a worker runs them: right, quick, and paged.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Ceilings, CheckError, GpuCheck, say};
use crate::CpuIsa;
use crate::backend::{Backend, Compute, Cuda, Engine, Gpu, Planned, PrepareRequest};
use crate::batch::{Column, HostBatch, Item, ItemResult};
use crate::model::Model;
use crate::plan::Sizes;
use crate::source::{ModelSource, Precision};

/// What a batch is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// So many rows, all of one length.
    Uniform {
        /// Rows.
        count: usize,
        /// Tokens of each.
        length: usize,
    },
    /// So many rows of 4 to 256 tokens, short ones more often.
    Mixed {
        /// Rows.
        count: usize,
    },
}

/// A model's answers here and on the processor.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    /// ‖found - expected‖ / ‖expected‖ over all rows, expected being in float.
    pub apart: f64,
    /// Of the row that is furthest off.
    pub cosine_min: f64,
    /// Whether each row was the same bits alone.
    pub is_invariant: bool,
}

/// What a batch took.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    /// Tokens in it.
    pub tokens: usize,
    /// From launch to results, one batch at a time: the middle one.
    pub seconds: f64,
    /// For each batch, two in flight.
    pub seconds_in_flight: f64,
    /// The least it can take by the ceilings.
    pub floor: f64,
}

/// Seconds for each batch.
#[derive(Clone, Copy, Debug)]
pub struct Overlap {
    /// On one stream.
    pub one: f64,
    /// On two side by side.
    pub two: f64,
}

/// What it costs that models take turns.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    /// Bytes of one model's weights.
    pub bytes: u64,
    /// A small batch whose model is there.
    pub resident: f64,
    /// The same when its weights have to come first.
    pub paged: f64,
}

impl Shape {
    fn lengths(self, random: &mut StdRng) -> Vec<usize> {
        match self {
            Self::Uniform { count, length } => vec![length; count],
            Self::Mixed { count } => {
                let mut length = || (4.0 * 64_f64.powf(random.random_range(0.0..1.0))) as usize;
                (0..count).map(|_| length()).collect()
            }
        }
    }
}

impl GpuCheck {
    /// A model's embeddings of rows of this shape, computed in `dtype`, beside those of the processor.
    ///
    /// # Errors
    /// When it does not run on either, or not in that.
    pub fn answers(&self, folder: &Path, shape: Shape, dtype: &str) -> Result<Answers, CheckError> {
        let precision = precision_of(dtype)?;
        let mut random = StdRng::seed_from_u64(self.seed);
        let rows = self.draw(folder, &shape.lengths(&mut random), &mut random)?;
        let compute = self.compute()?;
        let mut cuda = load(&compute, folder, precision)?;
        let found = embeddings(&mut cuda, "model", &rows)?;

        let request = request("model", folder, Precision::F32);
        let on_processor = Compute::new(None, CpuIsa::detect()).map_err(say)?;
        let (prepared, _) = Planned::<Engine>::prepare(&request, &on_processor, &mut |_| {}).map_err(say)?;
        let mut reference = Planned::default();
        reference.install(&request.name, prepared).map_err(say)?;
        let expected = embeddings(&mut reference, "model", &rows)?;

        let (mut off, mut all, mut cosine_min) = (0.0, 0.0, f64::INFINITY);
        for (found, expected) in found.iter().zip(&expected) {
            let (mut product, mut lengths) = (0.0, [0.0, 0.0]);
            for (x, y) in found.iter().zip(expected) {
                let (x, y) = (f64::from(*x), f64::from(*y));
                off += (x - y).powi(2);
                all += y * y;
                product += x * y;
                lengths = [lengths[0] + x * x, lengths[1] + y * y];
            }
            // What is no number is not near anything.
            let cosine = product / (lengths[0] * lengths[1]).sqrt();
            cosine_min = if cosine.is_nan() { f64::NEG_INFINITY } else { f64::min(cosine_min, cosine) };
        }
        let mut is_invariant = true;
        for (row, together) in rows.iter().zip(&found).take(8) {
            is_invariant &= embeddings(&mut cuda, "model", std::slice::from_ref(row))?[0] == *together;
        }
        Ok(Answers { apart: (off / all).sqrt(), cosine_min, is_invariant })
    }

    /// How long batches of a model that computes in `dtype` take, `rounds` of them. The floor is that of bfloat16.
    ///
    /// # Errors
    /// When it does not run.
    pub fn time(
        &self,
        folder: &Path,
        shape: Shape,
        dtype: &str,
        rounds: usize,
        ceilings: &Ceilings,
    ) -> Result<Timed, CheckError> {
        let precision = precision_of(dtype)?;
        let mut random = StdRng::seed_from_u64(self.seed);
        let lengths = shape.lengths(&mut random);
        let batch = batch("model", &self.draw(folder, &lengths, &mut random)?);
        let live: Vec<u32> = (0..lengths.len() as u32).collect();
        let compute = self.compute()?;
        let mut cuda = load(&compute, folder, precision)?;
        // Until it is captured.
        for _ in 0..3 {
            finish(&mut cuda, &batch, &live)?;
        }
        let mut took = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            let started = Instant::now();
            finish(&mut cuda, &batch, &live)?;
            took.push(started.elapsed().as_secs_f64());
        }
        took.sort_by(f64::total_cmp);
        let seconds_in_flight = in_flight(std::slice::from_mut(&mut cuda), &batch, &live, rounds)?;
        let plan = Model::read(folder).map_err(say)?.plan;
        let sizes = Sizes {
            tokens: lengths.iter().sum::<usize>() as u64,
            sequences: lengths.len() as u64,
            marks: 0,
            squares: lengths.iter().map(|length| (length * length) as u64).sum(),
        };
        let floor = ceilings.floor(&plan, &sizes);
        Ok(Timed { tokens: sizes.tokens as usize, seconds: took[rounds / 2], seconds_in_flight, floor })
    }

    /// How long batches of a model take for each, `rounds` of them, when one stream computes them, and when two do side by
    /// side: whether small batches should overlap.
    ///
    /// # Errors
    /// When it does not run.
    pub fn overlap(&self, folder: &Path, shape: Shape, rounds: usize) -> Result<Overlap, CheckError> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let lengths = shape.lengths(&mut random);
        let batch = batch("model", &self.draw(folder, &lengths, &mut random)?);
        let live: Vec<u32> = (0..lengths.len() as u32).collect();
        let mut backends = Vec::new();
        for _ in 0..2 {
            let free = self.driver.memory()?.free;
            let gpu = Gpu::new(self.driver.clone(), free / 3, self.gpu.tokens_max(), lengths.len())?;
            let compute = Compute::new(None, CpuIsa::detect()).map_err(say)?.with_gpu(gpu, false);
            let mut cuda = load(&compute, folder, Precision::Auto)?;
            // Until it is captured.
            for _ in 0..3 {
                finish(&mut cuda, &batch, &live)?;
            }
            backends.push(cuda);
        }
        let one = in_flight(&mut backends[..1], &batch, &live, rounds)?;
        let two = in_flight(&mut backends, &batch, &live, rounds)?;
        Ok(Overlap { one, two })
    }

    /// Bytes of device memory that a worker with one model takes beyond what the device had in use when this was made, as
    /// the driver counts them: weights, an arena for a GPU's largest batches, kernels, what was captured.
    ///
    /// # Errors
    /// When it does not run.
    pub fn footprint(&self, folder: &Path) -> Result<u64, CheckError> {
        let budget = crate::Budget::of_gpu();
        let (tokens, rows) = if self.is_emulated { (256, 16) } else { (budget.tokens as usize, budget.rows as usize) };
        let free = self.driver.memory()?.free;
        let gpu = Gpu::new(self.driver.clone(), free - free / 20, tokens, rows)?;
        let compute = Compute::new(None, CpuIsa::detect()).map_err(say)?.with_gpu(gpu, false);
        let mut cuda = load(&compute, folder, Precision::Auto)?;
        let mut random = StdRng::seed_from_u64(self.seed);
        let batch = batch("model", &self.draw(folder, &[32], &mut random)?);
        for _ in 0..3 {
            finish(&mut cuda, &batch, &[0])?;
        }
        Ok(self.memory_used()?.saturating_sub(self.bare))
    }

    /// Loads `count` models, alike but for one number so that they share nothing, on a device with room for half of them, and
    /// asks each in turn.
    ///
    /// # Errors
    /// When one cannot be loaded or run.
    pub fn paging(&self, folder: &Path, count: usize) -> Result<Paging, CheckError> {
        let names: Vec<String> = (0..count).map(|index| format!("model-{index}")).collect();
        let mut random = StdRng::seed_from_u64(self.seed);
        let rows = self.draw(folder, &[32], &mut random)?;
        let bytes = {
            let compute = self.compute()?;
            let (_, card) =
                Cuda::prepare(&request("one", folder, Precision::Auto), &compute, &mut |_| {}).map_err(say)?;
            card.bytes
        };
        let room = self.gpu.half_of(bytes * count as u64)?;
        let compute = Compute::new(None, CpuIsa::detect()).map_err(say)?.with_gpu(room, false);
        let copy = folder.with_extension("other");
        let mut cuda = open(&compute)?;
        for (index, name) in names.iter().enumerate() {
            write_other(folder, &copy, index as u16)?;
            install(&mut cuda, &compute, name, &copy, Precision::Auto)?;
        }
        let mut ask = |name: &str| -> Result<f64, CheckError> {
            let (batch, started) = (batch(name, &rows), Instant::now());
            finish(&mut cuda, &batch, &[0])?;
            Ok(started.elapsed().as_secs_f64())
        };
        let (mut resident, mut paged) = (Vec::new(), Vec::new());
        // Twice round: by the second each of them was the one that was not needed for longest.
        for name in names.iter().chain(&names) {
            paged.push(ask(name)?);
            for _ in 0..3 {
                ask(name)?;
            }
            resident.push(ask(name)?);
        }
        let middle = |seconds: &mut [f64]| {
            seconds.sort_by(f64::total_cmp);
            seconds[seconds.len() / 2]
        };
        Ok(Paging { bytes, resident: middle(&mut resident), paged: middle(&mut paged[count..]) })
    }

    fn compute(&self) -> Result<Compute, CheckError> {
        Ok(Compute::new(None, CpuIsa::detect()).map_err(say)?.with_gpu(self.gpu.clone(), false))
    }

    /// Rows of these lengths.
    fn draw(&self, folder: &Path, lengths: &[usize], random: &mut StdRng) -> Result<Vec<Vec<i32>>, CheckError> {
        let vocabulary = Model::read(folder).map_err(say)?.vocabulary as i32;
        let mut row = |length: &usize| (0..*length).map(|_| random.random_range(0..vocabulary)).collect();
        Ok(lengths.iter().map(&mut row).collect())
    }
}

/// Copies a model and changes its last number, which is of an encoder's last layer.
fn write_other(folder: &Path, copy: &Path, number: u16) -> Result<(), CheckError> {
    fs::create_dir_all(copy).map_err(say)?;
    fs::copy(folder.join("config.json"), copy.join("config.json")).map_err(say)?;
    let mut weights = fs::read(folder.join("model.safetensors")).map_err(say)?;
    let last = weights.len() - 2;
    // As bfloat16 it is next to nothing.
    weights[last..].copy_from_slice(&number.to_le_bytes());
    fs::write(copy.join("model.safetensors"), weights).map_err(say)
}

fn precision_of(dtype: &str) -> Result<Precision, CheckError> {
    Precision::parse(dtype).ok_or_else(|| say(format_args!("no dtype {dtype}")))
}

/// What runs models on the GPU; none are loaded.
fn open(compute: &Compute) -> Result<Cuda, CheckError> {
    Ok(Cuda::new(compute.gpu.clone().ok_or_else(|| say("no GPU"))?))
}

/// The same with one.
fn load(compute: &Compute, folder: &Path, precision: Precision) -> Result<Cuda, CheckError> {
    let mut cuda = open(compute)?;
    install(&mut cuda, compute, "model", folder, precision)?;
    Ok(cuda)
}

/// Reads a model and makes it callable.
fn install(
    cuda: &mut Cuda,
    compute: &Compute,
    name: &str,
    folder: &Path,
    precision: Precision,
) -> Result<(), CheckError> {
    let request = request(name, folder, precision);
    let (loaded, _) = Cuda::prepare(&request, compute, &mut |_| {}).map_err(say)?;
    cuda.install(&request.name, loaded).map_err(say)
}

fn request(name: &str, folder: &Path, precision: Precision) -> PrepareRequest {
    PrepareRequest { name: name.into(), source: ModelSource::Folder(folder.to_owned()), precision }
}

/// As the link brings it.
fn batch(model: &str, rows: &[Vec<i32>]) -> HostBatch {
    let ids = Column::of_integers(rows.iter().map(|row| row.iter().map(|id| id.to_le_bytes())));
    let types = Column::of_integers(rows.iter().map(|row| row.iter().map(|_| [0; 4])));
    HostBatch::unsent(model.into(), vec![ids, types], vec![Item::default(); rows.len()])
}

fn embeddings<B: Backend>(backend: &mut B, model: &str, rows: &[Vec<i32>]) -> Result<Vec<Vec<f32>>, CheckError> {
    let live: Vec<u32> = (0..rows.len() as u32).collect();
    let mut results = finish(backend, &batch(model, rows), &live)?;
    results.sort_unstable_by_key(|result| result.index);
    let numbers = |result: &ItemResult| {
        let outputs = result.outcome.as_ref().map_err(say)?;
        Ok(outputs[0].data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    };
    results.iter().map(numbers).collect()
}

/// Runs a batch to its end.
fn finish<B: Backend>(backend: &mut B, batch: &HostBatch, live: &[u32]) -> Result<Vec<ItemResult>, CheckError> {
    let mut ticket = backend.launch(batch, live).map_err(say)?;
    wait(backend, &mut ticket)
}

/// Seconds for each of `rounds` batches, which backends take by turns, two in flight on each.
fn in_flight(backends: &mut [Cuda], batch: &HostBatch, live: &[u32], rounds: usize) -> Result<f64, CheckError> {
    let started = Instant::now();
    let mut launched = VecDeque::new();
    for round in 0..rounds {
        let index = round % backends.len();
        launched.push_back((index, backends[index].launch(batch, live).map_err(say)?));
        if launched.len() == 2 * backends.len()
            && let Some((first, mut ticket)) = launched.pop_front()
        {
            wait(&mut backends[first], &mut ticket)?;
        }
    }
    for (index, mut ticket) in launched {
        wait(&mut backends[index], &mut ticket)?;
    }
    Ok(started.elapsed().as_secs_f64() / rounds as f64)
}

fn wait<B: Backend>(backend: &mut B, ticket: &mut B::Ticket) -> Result<Vec<ItemResult>, CheckError> {
    loop {
        match backend.poll(ticket) {
            Some(results) => return results.map_err(say),
            None => std::hint::spin_loop(),
        }
    }
}
