//! Plans on a GPU: weights in one kind of number, or as bytes where a model is asked for so; one arena for all batches, one
//! stream that computes, one that copies, and one on which models are read in.
//!
//! A batch is one copy to the device, the plan's kernels, and one copy back, which runs beside the next batch. Of logits of
//! a whole vocabulary only the best are copied, unless a row asks for others. What small batches launch is captured once
//! for all batches of nearly their size and replayed, since launching would take longer than computing; large ones are
//! launched as they are. In steady state nothing is allocated and nobody waits for the device.
//!
//! Weights of all models are in pinned memory of the host, and on the device while there is room: a batch whose model is
//! not there pages it in, in place of those that were not needed for longest.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::planned::calibrate::MIXED_LOSS_MAX;
use super::planned::finish::Finish;
use super::planned::pack::{Limits, Packer};
use super::planned::{Facts, build_with, card};
use super::{Backend, Compute, LoadError, PrepareRequest};
use crate::batch::{BatchError, HostBatch, ItemError, ItemResult, PageIn};
use crate::card::ModelCard;
use crate::cuda::driver::DriverError;
use crate::cuda::element::Element;
use crate::cuda::ledger::Reservation;
use crate::cuda::memory::DeviceMemory;
use crate::cuda::slot::Slots;
use crate::model::Model;
use crate::source::{ModelSource, Precision};

mod calibrate;
mod gpu;
mod loaded;
mod program;
mod run;
mod shape;
mod staging;
#[cfg(test)]
mod tests;
mod weights;

pub(crate) use gpu::Gpu;
use loaded::Loaded;
pub(crate) use program::Unsupported;
use program::{Inputs, Program};
use run::{Results, Row, Run};
use shape::Shape;
use weights::{Resident, Weights};

/// Batches in flight: one computes while the other is copied.
const DEPTH: usize = 2;
/// The part of loading that choosing takes where products are of bytes.
const CHOOSING_PART: f32 = 0.8;
/// A batch that takes this long never ends.
const HUNG_AFTER: Duration = Duration::from_secs(20);

/// The models of a device and what runs on it.
#[derive(Debug)]
pub(crate) struct Cuda {
    gpu: Arc<Gpu>,
    models: BTreeMap<Arc<str>, Loaded>,
    arena: Option<Arena>,
    slots: Slots,
    packer: Packer,
    /// Counts batches: who was needed when.
    clock: u64,
    /// Counts weights that came or went.
    moves: u64,
}

/// Memory for the buffers of one batch after the other.
#[derive(Debug)]
struct Arena {
    memory: DeviceMemory,
    _reservation: Reservation,
}

/// A launched batch: its runs, in order, and the rows that were not worth running.
#[derive(Debug)]
pub(crate) struct Ticket {
    runs: Vec<Run>,
    settled: Vec<ItemResult>,
    finish: Arc<Finish>,
    model: Arc<str>,
    launched: Instant,
    paging: Option<Paging>,
}

/// Weights on their way.
#[derive(Clone, Copy, Debug)]
struct Paging {
    began: Instant,
    /// When they were seen to be there.
    came: Option<Instant>,
}

impl Cuda {
    pub(crate) fn new(gpu: Arc<Gpu>) -> Self {
        Self {
            slots: Slots::new(&gpu.compute, &gpu.copies, &gpu.ledger),
            gpu,
            models: BTreeMap::new(),
            arena: None,
            packer: Packer::default(),
            clock: 0,
            moves: 0,
        }
    }

    /// Sees to it that a model's weights are on the device, or on their way there before what comes next; says if they are
    /// on their way.
    fn bring_weights(&mut self, name: &Arc<str>) -> Result<Option<Paging>, BatchError> {
        let gpu = self.gpu.clone();
        let began = Instant::now();
        let mut is_waited_for = false;
        loop {
            let Some(loaded) = self.models.get_mut(name).filter(|loaded| loaded.resident.is_none()) else {
                return Ok(None);
            };
            let bytes = loaded.weights.missing();
            if let Some(resident) = loaded.weights.page_in(&gpu, &gpu.paging)? {
                resident.come_before(&gpu.compute)?;
                loaded.resident = Some(resident);
                self.moves += 1;
                tracing::debug!(model = %name, bytes, "paged in");
                return Ok(Some(Paging { began, came: None }));
            }
            if gpu.ledger.has(bytes as u64) && !is_waited_for {
                // What was given back comes free when the device is done with it.
                gpu.compute.synchronize()?;
                is_waited_for = true;
            } else if !page_one_out(&mut self.models, Some(name), &mut self.moves) {
                return Err(BatchError::Device(format!("no room for the weights of `{name}`: {}", gpu.account(bytes))));
            } else {
                is_waited_for = false;
            }
        }
    }

    /// Models whose weights are not on the device.
    fn without_weights(&self) -> Vec<Arc<str>> {
        self.models.iter().filter(|(_, loaded)| loaded.resident.is_none()).map(|(name, _)| name.clone()).collect()
    }

    /// Whether any model can be run beside the largest arena that any of them needs.
    fn fits_all(&self) -> Result<(), LoadError> {
        let most = |of: fn(&Loaded) -> usize| self.models.values().map(of).max().unwrap_or(0) as u64;
        let (weights, arena) = (most(|loaded| loaded.weights.bytes()), most(|loaded| loaded.program.bytes()));
        self.gpu.check_room(weights, arena, most(|loaded| loaded.program.results()))
    }

    /// Bytes of arena that the largest batch of any model takes.
    fn arena_needed(&self) -> usize {
        self.models.values().map(|loaded| loaded.program.bytes()).max().unwrap_or(0)
    }

    /// Sees to it that the arena is as large as all models need. It is for one of them.
    fn grow_arena(&mut self, name: &Arc<str>) -> Result<(), BatchError> {
        let needed = self.arena_needed();
        if self.arena.as_ref().is_some_and(|arena| arena.memory.span().bytes >= needed) {
            return Ok(());
        }
        // It moves, and with it all that was captured.
        self.models.values_mut().for_each(|loaded| loaded.shapes.clear());
        self.arena = None;
        // So that where it lay can be where it lies.
        self.gpu.compute.synchronize()?;
        loop {
            if let Some(reservation) = self.gpu.ledger.reserve(needed as u64) {
                let stream = self.gpu.compute.stream();
                match DeviceMemory::new(self.gpu.driver(), stream, stream, needed) {
                    Ok(memory) => {
                        self.arena = Some(Arena { memory, _reservation: reservation });
                        return Ok(());
                    }
                    Err(DriverError::OutOfMemory { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            // Whosever weights: if they are needed next they come again, once there is an arena.
            if !page_one_out(&mut self.models, None, &mut self.moves) {
                let account = self.gpu.account(needed);
                return Err(BatchError::OutOfMemory(format!("no room for the largest batch of `{name}`: {account}")));
            }
            self.gpu.compute.synchronize()?;
        }
    }

    /// Hands one packed batch over to the device.
    fn run(&mut self, name: &Arc<str>, rows: Vec<Row>) -> Result<Run, BatchError> {
        self.clock += 1;
        let Self { gpu, models, arena, slots, packer, clock, moves } = self;
        let missing = || BatchError::Device(format!("model `{name}` is not in memory"));
        let (Some(loaded), Some(arena)) = (models.get(name), arena) else { return Err(missing()) };
        let packed = packer.packed();
        let exact = Shape::of(&packed);
        let shape = Loaded::shape_for(&exact);
        if !loaded.program.max().holds(&shape) {
            let Shape { tokens, sequences, marks } = *loaded.program.max();
            return Err(BatchError::OutOfMemory(format!(
                "{} tokens, {} sequences and {} masks, and there is room for {tokens}, {sequences} and {marks}",
                exact.tokens, exact.sequences, exact.marks
            )));
        }
        let inputs = Inputs::of(&shape);
        let space = arena.memory.span();
        let count = loaded.finish.best_of(rows.iter().map(|row| &row.options));
        let top = count.and_then(|count| loaded.program.top(&exact, count, space));
        let output = top.map_or_else(|| space.part(loaded.program.output(&exact)), |top| top.output);
        let mut slot = loop {
            match slots.take(inputs.bytes(), output.bytes) {
                // What was given back comes free when the device is done with it.
                Err(DriverError::OutOfMemory { .. }) if page_one_out(models, Some(name), moves) => {
                    gpu.compute.synchronize()?
                }
                slot => break slot?,
            }
        };
        let loaded = models.get_mut(name).ok_or_else(missing)?;
        loaded.needed = *clock;
        slot.copy_in(|to| staging::write(&packed, &shape, to), arena.memory.part(space.part(0..inputs.bytes())))?;
        loaded.compute(gpu, &arena.memory, &shape, *clock)?;
        if let Some(top) = &top {
            gpu.compute.run(&[top.command()], &[&arena.memory])?;
        }
        slot.copy_out(arena.memory.part(output))?;
        let results = top.map_or(Results::Output(loaded.program.output_element()), |top| Results::Best(top.count));
        Ok(Run { slot, rows, results })
    }
}

impl Backend for Cuda {
    type Prepared = Loaded;
    type Ticket = Ticket;

    fn prepare(
        request: &PrepareRequest,
        compute: &Compute,
        progress: &mut dyn FnMut(f32),
    ) -> Result<(Loaded, ModelCard), LoadError> {
        let ModelSource::Folder(folder) = &request.source else { return Err(LoadError::NoFolder) };
        let Some(gpu) = &compute.gpu else { return Err(LoadError::NoGpu) };
        let Kind { element, loss_max, dtype } = Kind::of(request.precision);
        let model = Model::read(folder)?;
        let limits = Limits::of(&model);
        let program = Program::new(&model.plan, element, gpu.largest(&model, &limits))?;
        let ((program, weights), weights_sha256) = build_with(&model, |bound| {
            let Some(loss_max) = loss_max else {
                let weights = Weights::read(&model.plan, &program, bound, &BTreeMap::new(), gpu, progress)?;
                return Ok((program, weights));
            };
            let first = &mut |part| progress(part * CHOOSING_PART);
            let choices = calibrate::choose_all(&model, bound, compute, loss_max, first)?;
            let program = program.with_int8(choices.iter().map(|(id, choice)| (*id, choice.factors.is_some())));
            let second = &mut |part| progress(CHOOSING_PART + part * (1.0 - CHOOSING_PART));
            let weights = Weights::read(&model.plan, &program, bound, &choices, gpu, second)?;
            Ok((program, weights))
        })?;
        let bytes = weights.bytes() as u64;
        gpu.check_room(bytes, program.bytes() as u64, program.results() as u64)?;
        let mut loaded = Loaded {
            program,
            weights,
            resident: None,
            limits,
            finish: Arc::new(Finish::of(&model)),
            shapes: BTreeMap::new(),
            needed: 0,
        };
        let smallest_batch = loaded.time_smallest(gpu)?;
        let facts = Facts { weights_sha256, bytes, dtype, backend: "cuda", instructions: "", smallest_batch };
        Ok((loaded, card(&model, facts)?))
    }

    fn depth(&self) -> usize {
        DEPTH
    }

    fn is_brief(&self, _: &HostBatch) -> bool {
        false
    }

    fn install(&mut self, name: &Arc<str>, loaded: Loaded) -> Result<(), LoadError> {
        self.models.insert(name.clone(), loaded);
        self.moves += 1;
        let grown = self.fits_all().and_then(|()| self.grow_arena(name).map_err(LoadError::Smallest));
        if grown.is_err() {
            self.models.remove(name);
        }
        grown
    }

    fn evict(&mut self, name: &str) {
        self.models.remove(name);
        self.moves += 1;
        // The arena was the largest model's. What is under way keeps its memory; the next batch allocates a smaller one.
        let needed = self.arena_needed();
        if self.arena.take_if(|arena| arena.memory.span().bytes > needed).is_some() {
            self.models.values_mut().for_each(|loaded| loaded.shapes.clear());
        }
    }

    fn launch(&mut self, batch: &HostBatch, live: &[u32]) -> Result<Ticket, BatchError> {
        let name = &batch.model;
        let Some(loaded) = self.models.get(name) else {
            return Err(BatchError::Device(format!("model `{name}` is not in memory")));
        };
        let finish = loaded.finish.clone();
        let (mut runs, mut settled) = (Vec::new(), Vec::new());
        self.grow_arena(name)?;
        let paging = self.bring_weights(name)?;
        self.packer.clear();
        for (nth, &index) in (1..).zip(live) {
            let Some(loaded) = self.models.get(name) else { break };
            if let Err(problem) = self.packer.push(batch, index, &loaded.limits) {
                settled.push(ItemResult { index, outcome: Err(ItemError::Input(problem)) });
            }
            let is_last = nth == live.len();
            if !self.packer.is_empty() && (is_last || self.packer.is_full(&loaded.limits)) {
                let row = |(index, output): (u32, Range<usize>)| Row {
                    index,
                    output,
                    options: batch.items[index as usize].options.clone(),
                };
                let rows = self.packer.rows(finish.rows()).map(row).collect();
                runs.push(self.run(name, rows)?);
                self.packer.clear();
            }
        }
        // Compiling and paging in take their time before it is launched.
        Ok(Ticket { runs, settled, finish, model: name.clone(), launched: Instant::now(), paging })
    }

    fn poll(&mut self, ticket: &mut Ticket) -> Option<Result<Vec<ItemResult>, BatchError>> {
        if let Some(paging) = ticket.paging.as_mut().filter(|paging| paging.came.is_none()) {
            let resident = self.models.get(&ticket.model).and_then(|loaded| loaded.resident.as_ref());
            match resident.map_or(Ok(true), Resident::has_come) {
                Ok(has_come) => paging.came = has_come.then(Instant::now),
                Err(error) => return Some(Err(error.into())),
            }
        }
        for run in &mut ticket.runs {
            match run.slot.is_done() {
                Ok(true) => {}
                Ok(false) if ticket.launched.elapsed() < HUNG_AFTER => return None,
                Ok(false) => {
                    // To give anything of it back would wait for the device.
                    std::mem::forget(std::mem::take(&mut ticket.runs));
                    let why =
                        format!("a batch of `{}` has not ended in {HUNG_AFTER:?}: the device hangs", ticket.model);
                    return Some(Err(BatchError::Broken(why)));
                }
                Err(error) => return Some(Err(error.into())),
            }
        }
        // What was computed with weights had them, whether or not anybody looked in between.
        if let Some(paging) = &mut ticket.paging {
            paging.came.get_or_insert_with(Instant::now);
        }
        let mut results = std::mem::take(&mut ticket.settled);
        for run in ticket.runs.drain(..) {
            results.extend(run.results(&ticket.finish));
            self.slots.put_back(run.slot);
        }
        Some(Ok(results))
    }

    fn absent(&self, seen: &mut u64) -> Option<Vec<Arc<str>>> {
        let is_news = std::mem::replace(seen, self.moves) != self.moves;
        is_news.then(|| self.without_weights())
    }

    fn page_in(&self, ticket: &Ticket, since: Instant) -> Option<PageIn> {
        let Paging { began, came } = ticket.paging?;
        let taken = came?.saturating_duration_since(began.max(since));
        Some(PageIn { taken, absent: self.without_weights() })
    }
}

/// What a model is computed in.
struct Kind {
    element: Element,
    /// What a product over tokens may lose to bytes, if any is of them.
    loss_max: Option<f32>,
    /// As cards have it.
    dtype: &'static str,
}

impl Kind {
    fn of(wanted: Precision) -> Self {
        let (element, loss_max) = match wanted {
            Precision::Auto | Precision::Bf16 => (Element::Bf16, None),
            Precision::F16 => (Element::F16, None),
            Precision::F32 => (Element::F32, None),
            Precision::Int8 => (Element::Bf16, Some(f32::INFINITY)),
            Precision::Int8Mixed => (Element::Bf16, Some(MIXED_LOSS_MAX)),
        };
        let dtype = if loss_max.is_some() { wanted.name() } else { element.name() };
        Self { element, loss_max, dtype }
    }
}

/// Gives back the weights of the model that was not needed for longest, but for one if it is needed now. Says whether there
/// was one.
fn page_one_out(models: &mut BTreeMap<Arc<str>, Loaded>, but: Option<&Arc<str>>, moves: &mut u64) -> bool {
    let others = models.iter_mut().filter(|(name, loaded)| Some(*name) != but && loaded.resident.is_some());
    let Some((name, oldest)) = others.min_by_key(|(_, loaded)| loaded.needed) else { return false };
    tracing::debug!(model = %name, bytes = oldest.weights.bytes(), "paged out");
    // What was captured reads them where they lay.
    oldest.shapes.clear();
    oldest.resident = None;
    *moves += 1;
    true
}

impl From<DriverError> for BatchError {
    fn from(error: DriverError) -> Self {
        match error {
            DriverError::OutOfMemory { .. } => Self::OutOfMemory(error.to_string()),
            DriverError::Failed(what) => Self::Device(what),
            DriverError::Broken(what) => Self::Broken(what),
        }
    }
}
