//! A model's weights: on the host in pinned memory for as long as the model is loaded, and on the device while there is
//! room for them.

use std::ops::Range;

use half::bf16;

use super::Gpu;
use super::program::Program;
use crate::backend::LoadError;
use crate::cuda::driver::{ALIGNMENT, DriverError, Element, Span};
use crate::cuda::ledger::Reservation;
use crate::cuda::memory::{DeviceMemory, PinnedMemory};
use crate::cuda::queue::{Mark, Queue};
use crate::model::weights::{Bound, Source};
use crate::plan::{Plan, WeightId};

/// All weights of a plan as kernels read them, row-major as in the checkpoint: tables and matrices alike, so that one
/// that is both is there once.
#[derive(Debug)]
pub(super) struct Weights {
    host: PinnedMemory,
    /// By their ids, in bytes.
    places: Vec<Range<usize>>,
}

/// Weights on the device.
#[derive(Debug)]
pub(super) struct Resident {
    memory: DeviceMemory,
    _reservation: Reservation,
    /// When they have come.
    ready: Mark,
}

impl Weights {
    /// Reads all of them. `progress` is told the part that is done.
    pub(super) fn read(
        plan: &Plan,
        program: &Program,
        weights: &Bound<'_>,
        gpu: &Gpu,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, LoadError> {
        let mut end: usize = 0;
        let mut place = |index: usize| {
            let start = end.next_multiple_of(ALIGNMENT);
            let (rows, columns) = plan.weights[index].size();
            end = start + rows * columns * program.element_of(WeightId(index)).bytes();
            start..end
        };
        let places: Vec<_> = (0..plan.weights.len()).map(&mut place).collect();
        let host = PinnedMemory::filled(gpu.driver(), end, |bytes| {
            for (index, place) in places.iter().enumerate() {
                let id = WeightId(index);
                write(weights.weight(id), program.element_of(id), &mut bytes[place.clone()])?;
                progress(place.end as f32 / end as f32);
            }
            Ok::<_, LoadError>(())
        })?;
        Ok(Self { host, places })
    }

    pub(super) fn bytes(&self) -> usize {
        self.host.span().bytes
    }

    /// Begins to copy them to the device on this queue. None if there is no room.
    pub(super) fn page_in(&self, gpu: &Gpu, queue: &Queue) -> Result<Option<Resident>, DriverError> {
        let Some(reservation) = gpu.ledger.reserve(self.bytes() as u64) else { return Ok(None) };
        let memory = match DeviceMemory::new(gpu.driver(), queue.stream(), gpu.compute.stream(), self.bytes()) {
            Ok(memory) => memory,
            // Somebody else is on this device.
            Err(DriverError::OutOfMemory { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let ready = Mark::new(gpu.driver())?;
        queue.copy_in(&self.host, memory.span())?;
        queue.record(&ready)?;
        Ok(Some(Resident { memory, _reservation: reservation, ready }))
    }

    /// Where each lies on the device.
    pub(super) fn spans(&self, resident: &Resident) -> Vec<Span> {
        self.places.iter().map(|place| resident.memory.span().part(place.clone())).collect()
    }
}

impl Resident {
    /// What this queue is given from now on finds them there.
    pub(super) fn come_before(&self, queue: &Queue) -> Result<(), DriverError> {
        queue.wait(&self.ready)
    }

    pub(super) fn memory(&self) -> &DeviceMemory {
        &self.memory
    }
}

fn write(source: Source<'_>, element: Element, to: &mut [u8]) -> Result<(), LoadError> {
    let mut row = vec![0.0; source.columns()];
    let row_bytes = to.len() / source.rows();
    for (index, to) in to.chunks_exact_mut(row_bytes).enumerate() {
        source.read_row(index, &mut row)?;
        match element {
            Element::F32 => {
                to.as_chunks_mut::<4>().0.iter_mut().zip(&row).for_each(|(to, x)| *to = x.to_le_bytes());
            }
            Element::Bf16 => {
                let numbers = row.iter().map(|x| bf16::from_f32(*x).to_le_bytes());
                to.as_chunks_mut::<2>().0.iter_mut().zip(numbers).for_each(|(to, x)| *to = x);
            }
        }
    }
    source.done();
    Ok(())
}
