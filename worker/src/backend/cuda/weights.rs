//! A model's weights: on the host in pinned memory for as long as the model is loaded, and on the device while there is
//! room for them. Models that were tuned by their heads alone have the same backbone, which is there once for all of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use sha2::{Digest as _, Sha256};

use super::Gpu;
use super::program::Program;
use crate::backend::LoadError;
use crate::backend::planned::calibrate::Choice;
use crate::cuda::driver::{ALIGNMENT, DriverError, Span};
use crate::cuda::element::Element;
use crate::cuda::ledger::Reservation;
use crate::cuda::lock;
use crate::cuda::memory::{DeviceMemory, PinnedMemory};
use crate::cuda::queue::{Mark, Queue};
use crate::model::weights::{Bound, Source};
use crate::ops::gemm::cuda::Int8Weight;
use crate::plan::{Plan, Rows, WeightId};

/// All weights of a plan as kernels read them, row-major as in the checkpoint: tables and matrices alike, so that one
/// that is both is there once.
#[derive(Debug)]
pub(super) struct Weights {
    /// What the ops over tokens read, and what the others do, if there is anything.
    pieces: Vec<Arc<Piece>>,
    /// By their ids, then the program's tables: in which piece, and where in it, in bytes.
    places: Vec<(usize, Range<usize>)>,
}

/// Weights that lie together.
#[derive(Debug)]
struct Piece {
    host: PinnedMemory,
    /// On the device, for as long as any model has it there.
    there: Mutex<Weak<Copied>>,
}

/// A piece on the device.
#[derive(Debug)]
struct Copied {
    /// There until it is dropped.
    memory: Option<DeviceMemory>,
    span: Span,
    _reservation: Reservation,
    /// When it has come.
    ready: Mark,
    /// What uses it.
    user: Queue,
    /// Held while that is captured.
    capturing: Arc<Mutex<()>>,
}

/// A model's weights on the device.
#[derive(Debug)]
pub(super) struct Resident(Vec<Arc<Copied>>);

/// Backbones on the host, by the SHA-256 of their bytes.
#[derive(Debug, Default)]
pub(super) struct Backbones(Mutex<BTreeMap<[u8; 32], Weak<Piece>>>);

impl Weights {
    /// Reads all of them, those of products of bytes as was chosen. `progress` is told the part that is done.
    pub(super) fn read(
        plan: &Plan,
        program: &Program,
        weights: &Bound<'_>,
        choices: &BTreeMap<WeightId, Choice>,
        gpu: &Gpu,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, LoadError> {
        let is_backbone = backbone(plan);
        let mut ends = [0_usize; 2];
        let mut place = |piece: usize, bytes: usize| {
            let start = ends[piece].next_multiple_of(ALIGNMENT);
            ends[piece] = start + bytes;
            (piece, start..ends[piece])
        };
        let mut places = Vec::with_capacity(plan.weights.len());
        for (index, weight) in plan.weights.iter().enumerate() {
            let ((rows, columns), id) = (weight.size(), WeightId(index));
            let plain = || rows * columns * program.element_of(id).bytes();
            let bytes = program.int8(id).map_or_else(plain, Int8Weight::bytes);
            places.push(place(usize::from(!is_backbone[index]), bytes));
        }
        let tables: Vec<_> = program.tables().collect();
        places.extend(tables.iter().map(|table| place(0, size_of_val(&**table))));
        let (all, mut done) = (ends[0] + ends[1], 0);
        let mut pieces = Vec::new();
        for (piece, end) in ends.into_iter().enumerate().filter(|(_, end)| *end > 0) {
            let mut hash = [0; 32];
            let host = PinnedMemory::filled(gpu.driver(), end, |bytes| {
                for (index, (_, place)) in places.iter().enumerate().filter(|(_, (of, _))| *of == piece) {
                    let (id, to) = (WeightId(index), &mut bytes[place.clone()]);
                    match (index.checked_sub(plan.weights.len()), program.int8(id)) {
                        (Some(table), _) => Element::F32.write(tables[table].iter().copied(), to),
                        (None, Some(int8)) => write_int8(weights.weight(id), int8, &choices[&id], to)?,
                        (None, None) => write(weights.weight(id), program.element_of(id), to)?,
                    }
                    done += place.len();
                    progress(done as f32 / all as f32);
                }
                hash = Sha256::digest(&*bytes).into();
                Ok::<_, LoadError>(())
            })?;
            pieces.push(if piece == 0 { gpu.backbones.share(hash, host) } else { Piece::new(host) });
        }
        // A plan without a backbone has its only piece in the first place.
        places.iter_mut().for_each(|(piece, _)| *piece = (*piece).min(pieces.len() - 1));
        Ok(Self { pieces, places })
    }

    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.host.len()).sum()
    }

    /// Bytes that are not on the device.
    pub(super) fn missing(&self) -> usize {
        let is_missing = |piece: &&Arc<Piece>| lock(&piece.there).strong_count() == 0;
        self.pieces.iter().filter(is_missing).map(|piece| piece.host.len()).sum()
    }

    /// Begins to copy to the device on this queue what is not there. None if there is no room.
    pub(super) fn page_in(&self, gpu: &Gpu, queue: &Queue) -> Result<Option<Resident>, DriverError> {
        if !gpu.ledger.has(self.missing() as u64) {
            return Ok(None);
        }
        let mut copied = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            let Some(piece) = piece.page_in(gpu, queue)? else { return Ok(None) };
            copied.push(piece);
        }
        Ok(Some(Resident(copied)))
    }

    /// Where each lies on the device.
    pub(super) fn spans(&self, resident: &Resident) -> Vec<Span> {
        self.places.iter().map(|(piece, place)| resident.0[*piece].span.part(place.clone())).collect()
    }
}

impl Piece {
    fn new(host: PinnedMemory) -> Arc<Self> {
        Arc::new(Self { host, there: Mutex::default() })
    }

    fn page_in(&self, gpu: &Gpu, queue: &Queue) -> Result<Option<Arc<Copied>>, DriverError> {
        let mut there = lock(&self.there);
        if let Some(copied) = there.upgrade() {
            return Ok(Some(copied));
        }
        let bytes = self.host.len();
        let Some(reservation) = gpu.ledger.reserve(bytes as u64) else { return Ok(None) };
        let ready = Mark::new(gpu.driver())?;
        let memory = match DeviceMemory::new(gpu.driver(), queue.stream(), gpu.compute.stream(), bytes) {
            Ok(memory) => memory,
            // Somebody else is on this device.
            Err(DriverError::OutOfMemory { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let begun = queue.copy_in(&self.host, memory.whole()).and_then(|()| queue.record(&ready));
        if let Err(error) = begun {
            // Nobody would know when what is given back now is not written any more.
            let _: Result<(), DriverError> = queue.synchronize();
            return Err(error);
        }
        let copied = Arc::new(Copied {
            span: memory.span(),
            memory: Some(memory),
            _reservation: reservation,
            ready,
            user: gpu.compute.clone(),
            capturing: gpu.capturing.clone(),
        });
        *there = Arc::downgrade(&copied);
        Ok(Some(copied))
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _no_other = lock(&self.capturing);
        // The memory is given back behind what its user was given: and so behind the copy, whoever began it. Where that
        // cannot be said the device is lost, and the memory with it.
        let _: Result<(), DriverError> = self.user.wait(&self.ready);
        self.memory = None;
    }
}

impl Resident {
    /// What this queue is given from now on finds them there.
    pub(super) fn come_before(&self, queue: &Queue) -> Result<(), DriverError> {
        self.0.iter().try_for_each(|copied| queue.wait(&copied.ready))
    }

    /// Whether they are there.
    pub(super) fn has_come(&self) -> Result<bool, DriverError> {
        self.0.iter().try_fold(true, |has_come, copied| Ok(has_come && copied.ready.is_past()?))
    }

    pub(super) fn memory(&self) -> impl Iterator<Item = &DeviceMemory> {
        self.0.iter().filter_map(|copied| copied.memory.as_ref())
    }
}

impl Backbones {
    /// The piece with this hash that is there already, or one of what is given.
    fn share(&self, hash: [u8; 32], host: PinnedMemory) -> Arc<Piece> {
        let mut known = lock(&self.0);
        known.retain(|_, piece| piece.strong_count() > 0);
        if let Some(piece) = known.get(&hash).and_then(Weak::upgrade) {
            return piece;
        }
        let piece = Piece::new(host);
        known.insert(hash, Arc::downgrade(&piece));
        piece
    }
}

/// Which weights are a backbone's: those that ops over tokens read.
fn backbone(plan: &Plan) -> Vec<bool> {
    let mut is_backbone = vec![false; plan.weights.len()];
    let over_tokens = plan.ops.iter().filter(|op| plan[op.output()].rows == Rows::Tokens);
    over_tokens.flat_map(|op| op.weights()).for_each(|id| is_backbone[id.0] = true);
    is_backbone
}

fn write(source: Source<'_>, element: Element, to: &mut [u8]) -> Result<(), LoadError> {
    let mut row = vec![0.0; source.columns()];
    let row_bytes = to.len() / source.rows();
    let may_overflow = element.largest() < f32::MAX;
    for (index, to) in to.chunks_exact_mut(row_bytes).enumerate() {
        source.read_row(index, &mut row)?;
        let too_large = |number: &&f32| number.abs() > element.largest();
        if may_overflow && let Some(number) = row.iter().find(too_large) {
            let tensors = source.names();
            return Err(LoadError::TooLarge { number: *number, tensors, dtype: element.name() });
        }
        element.write(row.iter().copied(), to);
    }
    source.done();
    Ok(())
}

fn write_int8(source: Source<'_>, int8: &Int8Weight, choice: &Choice, to: &mut [u8]) -> Result<(), LoadError> {
    int8.write(choice.factors.as_deref(), |index, row| source.read_row(index, row), to)?;
    source.done();
    Ok(())
}
