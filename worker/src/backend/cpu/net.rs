//! A model in memory, and running it: a program with its weights packed, the memory its slots lie in, and what each thread
//! keeps between tiles.

use std::sync::Mutex;

use super::arena::{Area, Arena, Places, Room};
use super::program::Program;
use super::run::{Run, Start};
use super::schedule::{Schedule, local_rows};
use crate::backend::planned::calibrate::Observer;
use crate::batch::BatchError;
use crate::cpu::dot::Int8;
use crate::cpu::memory::Aligned;
use crate::cpu::team::Team;
use crate::ops::attend::cpu::{Attends, Scratch};
use crate::ops::gemm::finish::Finish;
use crate::ops::gemm::pack::Packed as Matrix;
use crate::ops::normalize::cpu as normalize;
use crate::ops::rotate::angles::Tables;
use crate::plan::{NormKind, Packed, Rows};

/// Tokens that memory is made for at first; it grows with the largest batch.
const TOKENS_FIRST: usize = 512;

/// Tokens for each thread that run together at most, where sequences are not longer: what lies between layers then stays
/// in the last cache, and memory has a bound.
pub(super) const TOKENS_TOGETHER: usize = 512;

/// A kind of dot product that attention and products use alike.
pub(super) trait Kind: Finish<Row = ()> + Attends {}

impl<D: Finish<Row = ()> + Attends> Kind for D {}

/// What a task reads besides slots.
#[derive(Debug)]
pub(super) enum Weights<D: Kind> {
    Embed {
        width: usize,
        words: Aligned<D::Element>,
        positions: Option<Aligned<D::Element>>,
        types: Option<Aligned<D::Element>>,
        norm: Option<Norm>,
    },
    Gemm(Matrix<D>),
    GemmInt8(Matrix<Int8>),
    /// What activations are multiplied with before they become bytes, in all columns up to a multiple of 16.
    Quantise(Option<Vec<f32>>),
    /// Of heads of queries and of keys.
    Rotate([Norm; 2]),
    Norm(Norm),
    None,
}

#[derive(Debug)]
pub(super) struct Norm {
    pub(super) kind: NormKind,
    pub(super) gain: Vec<f32>,
    pub(super) shift: Vec<f32>,
    pub(super) epsilon: f32,
}

/// A model that can run.
#[derive(Debug)]
pub(super) struct Net<D: Kind> {
    pub(super) program: Program,
    /// One for each task.
    pub(super) weights: Vec<Weights<D>>,
    pub(super) arena: Arena,
    pub(super) angles: Tables,
    schedule: Schedule,
    /// Where sequences and marks of a part of a batch are in it.
    own: Own,
    /// One for each thread.
    pub(super) scratch: Vec<Mutex<Scratch<D>>>,
}

/// A part of a batch, counted from its own first token.
#[derive(Debug, Default)]
struct Own {
    splits: Vec<usize>,
    marks: Vec<usize>,
}

impl<D: Kind> Net<D> {
    pub(super) fn new(program: Program, weights: Vec<Weights<D>>, threads: usize) -> Self {
        Self {
            arena: Arena::empty(&program),
            angles: Tables::of(program.rotations.iter().copied()),
            schedule: Schedule::default(),
            own: Own::default(),
            scratch: (0..threads).map(|_| Mutex::new(Scratch::new())).collect(),
            program,
            weights,
        }
    }

    /// The weights, to be used otherwise.
    pub(super) fn into_weights(self) -> Vec<Weights<D>> {
        self.weights
    }

    /// Memory it comes to: its weights, and room for as many tokens as run together.
    pub(super) fn bytes(&self) -> usize {
        let threads = self.scratch.len();
        let room = arena_bytes(&self.program, threads) + self.angles.bytes(TOKENS_TOGETHER * threads);
        room + self.weights.iter().map(Weights::bytes).sum::<usize>()
    }

    /// Runs a batch; `output` becomes the rows of the program's output. An observer is shown the inputs of all products
    /// that are kept as operands.
    pub(super) fn run(
        &mut self,
        team: &mut Team,
        batch: &Packed<'_>,
        output: &mut Vec<f32>,
        observer: Option<&Observer>,
    ) -> Result<(), BatchError> {
        // What is written without a look at any bound relies on these.
        assert_eq!(self.scratch.len(), team.threads(), "a net runs on a team of as many threads as it was made for");
        assert!(batch.marks.iter().all(|mark| *mark < batch.ids.len()), "marks are tokens");
        output.clear();
        let mut own = std::mem::take(&mut self.own);
        let (mut sequence, mut mark) = (0, 0);
        while sequence + 1 < batch.splits.len() {
            let first = sequence;
            let start = batch.splits[first];
            let limit = start + TOKENS_TOGETHER * team.threads();
            sequence += 1;
            while sequence + 1 < batch.splits.len() && batch.splits[sequence + 1] <= limit {
                sequence += 1;
            }
            let end = batch.splits[sequence];
            let marks = batch.marks[mark..].iter().take_while(|mark| **mark < end).count();
            own.splits.clear();
            own.splits.extend(batch.splits[first..=sequence].iter().map(|split| split - start));
            own.marks.clear();
            own.marks.extend(batch.marks[mark..mark + marks].iter().map(|mark| mark - start));
            let types = if batch.types.is_empty() { batch.types } else { &batch.types[start..end] };
            let part = Packed { ids: &batch.ids[start..end], types, splits: &own.splits, marks: &own.marks };
            self.run_part(team, &part, output, observer)?;
            mark += marks;
        }
        self.own = own;
        Ok(())
    }

    /// Runs some whole sequences and appends the rows of the program's output.
    fn run_part(
        &mut self,
        team: &mut Team,
        batch: &Packed<'_>,
        output: &mut Vec<f32>,
        observer: Option<&Observer>,
    ) -> Result<(), BatchError> {
        self.fit(batch)?;
        let longest = batch.splits.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        self.angles.reserve(longest);
        let start = Start(self.arena.start());
        let mut schedule = std::mem::take(&mut self.schedule);
        schedule.plan(&self.program, batch, team.threads(), |task| self.panels(task));
        let run = Run { net: self, schedule: &schedule, batch, start, observer };
        team.run(&schedule.tiles, &|step, tile, thread| {
            // SAFETY: the team does every tile once and the steps in order; tiles of one step write different rows or
            // columns. The arena holds all slots for as many rows as the batch has.
            unsafe { run.tile(step, tile, thread) };
        });
        let slot = &self.program.slots[self.program.output.0];
        let view = run.view::<f32>(self.program.output, Area::Shared);
        for row in 0..batch.rows(slot.rows) {
            // SAFETY: the team is done; the slot has this row.
            output.extend_from_slice(unsafe { std::slice::from_raw_parts(view.at(row, 0), slot.width) });
        }
        self.schedule = schedule;
        Ok(())
    }

    /// Makes room for a batch; an error where the system refuses the address space.
    fn fit(&mut self, batch: &Packed<'_>) -> Result<(), BatchError> {
        let (tokens, marks) = (batch.rows(Rows::Tokens), batch.rows(Rows::Marks));
        let need = Room {
            tokens: tokens.max(TOKENS_FIRST),
            sequences: batch.rows(Rows::Sequences),
            marks,
            local: local_rows(self.scratch.len()),
        };
        if self.arena.room.covers(&need) {
            return Ok(());
        }
        let short =
            |error| BatchError::OutOfMemory(format!("no room for {tokens} tokens and {marks} masks together: {error}"));
        self.arena.grow(&self.program, &need).map_err(short)
    }

    /// Panels of columns of a task's product; a task that is no product has none.
    pub(super) fn panels(&self, task: usize) -> usize {
        match &self.weights[task] {
            Weights::Gemm(matrix) => matrix.panels(),
            Weights::GemmInt8(matrix) => matrix.panels(),
            _ => 0,
        }
    }

    /// Where a panel of a task's product begins.
    pub(super) fn panel(&self, task: usize, panel: usize) -> *const u8 {
        match &self.weights[task] {
            Weights::Gemm(matrix) => matrix.at(panel),
            Weights::GemmInt8(matrix) => matrix.at(panel),
            _ => unreachable!("products have matrices"),
        }
    }
}

impl<D: Kind> Weights<D> {
    fn bytes(&self) -> usize {
        match self {
            Self::Embed { words, positions, types, norm, .. } => {
                let tables = positions.iter().chain(types).map(Aligned::bytes).sum::<usize>();
                words.bytes() + tables + norm.as_ref().map_or(0, Norm::bytes)
            }
            Self::Rotate(norms) => norms.iter().map(Norm::bytes).sum(),
            Self::Gemm(matrix) => matrix.bytes(),
            Self::GemmInt8(matrix) => matrix.bytes(),
            Self::Quantise(factors) => factors.as_ref().map_or(0, |factors| factors.len() * size_of::<f32>()),
            Self::Norm(norm) => norm.bytes(),
            Self::None => 0,
        }
    }
}

impl Norm {
    /// As kernels take it.
    pub(super) fn of(&self) -> normalize::Norm<'_> {
        normalize::Norm { kind: self.kind, gain: &self.gain, shift: &self.shift, epsilon: self.epsilon }
    }

    fn bytes(&self) -> usize {
        (self.gain.len() + self.shift.len()) * size_of::<f32>()
    }
}

/// Memory that slots come to on so many threads, with as many tokens as run together.
pub(super) fn arena_bytes(program: &Program, threads: usize) -> usize {
    let room = Room { tokens: TOKENS_TOGETHER * threads, sequences: 1, marks: 0, local: local_rows(threads) };
    Places::new(program, &room).bytes()
}
