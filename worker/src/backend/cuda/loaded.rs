//! A model that was read, and what computes its batches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Gpu;
use super::program::{Inputs, Program};
use super::shape::Shape;
use super::weights::{Resident, Weights};
use super::{HUNG_AFTER, staging};
use crate::backend::LoadError;
use crate::backend::planned::finish::Finish;
use crate::backend::planned::pack::Limits;
use crate::batch::{BatchError, ItemOptions};
use crate::cuda::driver::DriverError;
use crate::cuda::lock;
use crate::cuda::memory::{Captured, DeviceMemory};
use crate::cuda::slot::Slots;
use crate::plan::Packed;

/// Batches up to so many tokens are replayed. Larger ones compute for longer than they take to launch.
const CAPTURED_TOKENS_MAX: usize = 4_096;
/// Shapes of one model that are captured at most; the one that was not used for longest makes room.
const CAPTURED_MAX: usize = 32;
/// Bytes of host memory that a captured shape is reckoned with on the device as well.
const CAPTURED_BYTES: u64 = 256 << 10;
/// Times the smallest batch is run at load; the best counts, and the first compiles.
const SMALLEST_RUNS: usize = 4;
/// Tokens of that batch.
const SMALLEST_TOKENS: usize = 3;

/// A model that was read.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(super) program: Program,
    pub(super) weights: Weights,
    pub(super) resident: Option<Resident>,
    pub(super) limits: Limits,
    pub(super) finish: Arc<Finish>,
    pub(super) shapes: BTreeMap<Shape, Seen>,
    /// By the clock of batches.
    pub(super) needed: u64,
}

/// What is known of a shape.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Whether it was run as it is: many shapes never come again, and what was never run cannot be captured.
    pub(super) has_run: bool,
    pub(super) needed: u64,
    pub(super) captured: Option<Captured>,
}

impl Loaded {
    /// What a batch is computed in: its own shape, or one that was captured for many.
    pub(super) fn shape_for(exact: &Shape) -> Shape {
        if exact.tokens <= CAPTURED_TOKENS_MAX { exact.bucket() } else { *exact }
    }

    /// Launches what computes a batch that lies in the arena, or replays it.
    pub(super) fn compute(
        &mut self,
        gpu: &Gpu,
        arena: &DeviceMemory,
        shape: &Shape,
        now: u64,
    ) -> Result<(), BatchError> {
        let Some(resident) = &self.resident else {
            return Err(BatchError::Device("the weights are not on the device".to_owned()));
        };
        let queue = &gpu.compute;
        let memory: Vec<_> = resident.memory().chain([arena]).collect();
        let commands = || self.program.commands(shape, arena.span(), &self.weights.spans(resident));
        if shape.tokens > CAPTURED_TOKENS_MAX {
            return Ok(queue.run(&commands(), &memory)?);
        }
        let seen = self.shapes.entry(*shape).or_default();
        seen.needed = now;
        if let Some(captured) = &seen.captured {
            return Ok(queue.replay(captured, &memory)?);
        }
        let reservation = if seen.has_run { gpu.ledger.reserve(CAPTURED_BYTES) } else { None };
        let captured = reservation.and_then(|reservation| {
            let _no_other = lock(&gpu.capturing);
            match queue.capture(&commands(), &memory, Some(reservation)) {
                Ok(captured) => Some(captured),
                // What cannot be captured now is run as it is, and may be captured later.
                Err(error) => {
                    tracing::warn!(%error, ?shape, "cannot capture");
                    seen.has_run = false;
                    None
                }
            }
        });
        let Some(captured) = captured else {
            queue.run(&commands(), &memory)?;
            seen.has_run = true;
            return Ok(());
        };
        queue.replay(&captured, &memory)?;
        seen.captured = Some(captured);
        let mut captured: Vec<_> = self.shapes.values_mut().filter(|seen| seen.captured.is_some()).collect();
        if captured.len() > CAPTURED_MAX
            && let Some(oldest) = captured.iter_mut().min_by_key(|seen| seen.needed)
        {
            **oldest = Seen::default();
        }
        Ok(())
    }

    /// Puts the weights on the device if there is room, and says how long the smallest batch takes there; nothing if there is
    /// none.
    pub(super) fn time_smallest(&mut self, gpu: &Gpu) -> Result<Duration, LoadError> {
        let queue = &gpu.loading;
        let Some(resident) = self.weights.page_in(gpu, queue)? else { return Ok(Duration::ZERO) };
        // A backbone may be on its way for another model.
        resident.come_before(queue)?;
        let has_marks = self.program.max().marks > 0;
        let tokens = SMALLEST_TOKENS.min(self.program.max().tokens);
        let ids = [0; SMALLEST_TOKENS];
        let packed =
            Packed { ids: &ids[..tokens], types: &[], splits: &[0, tokens], marks: if has_marks { &[0] } else { &[] } };
        let shape = Shape::of(&packed).bucket();
        let program = self.program.of_shape(shape);
        let Some(_reservation) = gpu.ledger.reserve(program.bytes() as u64) else { return Ok(Duration::ZERO) };
        let arena = match DeviceMemory::new(gpu.driver(), queue.stream(), queue.stream(), program.bytes()) {
            Err(DriverError::OutOfMemory { .. }) => return Ok(Duration::ZERO),
            arena => arena?,
        };
        let inputs = Inputs::of(&shape);
        let mut slots = Slots::new(queue, queue, &gpu.ledger);
        let mut commands = program.commands(&shape, arena.span(), &self.weights.spans(&resident));
        // So that all kernels are compiled that a batch is likely to need.
        let count = self.finish.best_of([&ItemOptions::default()]);
        let top = count.and_then(|count| program.top(&shape, count, arena.span()));
        commands.extend(top.map(|top| top.command()));
        let output = top.map_or_else(|| arena.span().part(program.output(&shape)), |top| top.output);
        let memory: Vec<_> = resident.memory().chain([&arena]).collect();
        let mut best = Duration::MAX;
        for _ in 0..SMALLEST_RUNS {
            let started = Instant::now();
            let mut slot = match slots.take(inputs.bytes(), output.bytes) {
                Err(DriverError::OutOfMemory { .. }) => return Ok(Duration::ZERO),
                slot => slot?,
            };
            let input = arena.part(arena.span().part(0..inputs.bytes()));
            slot.copy_in(|to| staging::write(&packed, &shape, to), input)?;
            queue.run(&commands, &memory)?;
            slot.copy_out(arena.part(output))?;
            while !slot.is_done()? {
                if started.elapsed() > HUNG_AFTER {
                    // As in `poll`.
                    std::mem::forget((slot, slots, arena, resident));
                    let why = format!("its smallest batch has not ended in {HUNG_AFTER:?}: the device hangs");
                    return Err(LoadError::Smallest(BatchError::Broken(why)));
                }
                std::hint::spin_loop();
            }
            best = best.min(started.elapsed());
            slots.put_back(slot);
        }
        self.resident = Some(resident);
        Ok(best)
    }
}
