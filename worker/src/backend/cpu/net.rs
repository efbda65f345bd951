//! A model in memory, and running it: a program with its weights packed, the memory its slots lie in, and what each thread
//! keeps between tiles.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use half::bf16;

use super::arena::{Area, Arena, Places, Room};
use super::calibrate::Observer;
use super::program::{Form, Forms, Program, SlotId, Task};
use super::schedule::{Cut, Schedule, local_rows};
use crate::cpu::dot::Int8;
use crate::cpu::memory::{Aligned, PADDING, Rows as View};
use crate::cpu::simd::Number as _;
use crate::cpu::team::Team;
use crate::ops::attend::cpu::{Attends, Scratch, attend};
use crate::ops::embed::cpu::{Tables, embed};
use crate::ops::gemm::cpu::{Left, multiply};
use crate::ops::gemm::finish::Finish;
use crate::ops::gemm::pack::Packed as Matrix;
use crate::ops::gemm::quantise::quantise;
use crate::ops::gemm::round::round;
use crate::ops::normalize::cpu::{self as normalize, add_norm};
use crate::ops::pick::cpu::pick;
use crate::ops::pool::cpu::pool;
use crate::plan::{Packed, Rows};

/// Tokens that memory is made for at first; it grows with the largest batch.
const TOKENS_FIRST: usize = 512;

/// Tokens for each thread that run together at most, where sequences are not longer: what lies between layers then stays
/// in the last cache, and memory has a bound.
const TOKENS_TOGETHER: usize = 512;

/// A kind of dot product that attention and products use alike.
pub(super) trait Kind: Finish<Row = ()> + Attends {}

impl<D: Finish<Row = ()> + Attends> Kind for D {}

/// What a task reads besides slots.
#[derive(Debug)]
pub(super) enum Weights<D: Kind> {
    Embed {
        words: Aligned<D::Element>,
        positions: Aligned<D::Element>,
        types: Option<Aligned<D::Element>>,
        norm: Norm,
    },
    Gemm(Matrix<D>),
    GemmInt8(Matrix<Int8>),
    /// What activations are multiplied with before they become bytes, in all columns up to a multiple of 16.
    Quantise(Option<Vec<f32>>),
    Norm(Norm),
    None,
}

#[derive(Debug)]
pub(super) struct Norm {
    pub(super) gain: Vec<f32>,
    pub(super) shift: Vec<f32>,
    pub(super) epsilon: f32,
}

/// A model that can run.
#[derive(Debug)]
pub(super) struct Net<D: Kind> {
    program: Program,
    /// One for each task.
    weights: Vec<Weights<D>>,
    arena: Arena,
    schedule: Schedule,
    /// Where sequences and marks of a part of a batch are in it.
    own: Own,
    scratch: Vec<Mutex<Scratch<D>>>,
}

/// A part of a batch, counted from its own first token.
#[derive(Debug, Default)]
struct Own {
    splits: Vec<usize>,
    marks: Vec<usize>,
}

impl<D: Kind> Net<D> {
    pub(super) fn new(program: Program, weights: Vec<Weights<D>>, threads: usize) -> Self {
        let room = Room { tokens: TOKENS_FIRST, sequences: 1, marks: 0, local: local_rows(threads) };
        Self {
            arena: Arena::new(&program, room),
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
        arena_bytes(&self.program, self.scratch.len()) + self.weights.iter().map(Weights::bytes).sum::<usize>()
    }

    /// Runs a batch; `output` becomes the rows of the program's output. An observer is shown the inputs of all products
    /// that are kept as operands.
    pub(super) fn run(
        &mut self,
        team: &mut Team,
        batch: &Packed<'_>,
        output: &mut Vec<f32>,
        observer: Option<&Observer>,
    ) {
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
            self.run_part(team, &part, output, observer);
            mark += marks;
        }
        self.own = own;
    }

    /// Runs some whole sequences and appends the rows of the program's output.
    fn run_part(&mut self, team: &mut Team, batch: &Packed<'_>, output: &mut Vec<f32>, observer: Option<&Observer>) {
        self.fit(batch);
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
    }

    /// Makes room for a batch.
    fn fit(&mut self, batch: &Packed<'_>) {
        let need = Room {
            tokens: batch.rows(Rows::Tokens),
            sequences: batch.rows(Rows::Sequences),
            marks: batch.rows(Rows::Marks),
            local: 0,
        };
        if !self.arena.room.covers(&need) {
            self.arena = Arena::new(&self.program, self.arena.room.union(&need));
        }
    }

    fn panels(&self, task: usize) -> usize {
        match &self.weights[task] {
            Weights::Gemm(matrix) => matrix.panels(),
            Weights::GemmInt8(matrix) => matrix.panels(),
            _ => 0,
        }
    }
}

impl<D: Kind> Weights<D> {
    fn bytes(&self) -> usize {
        match self {
            Self::Embed { words, positions, types, norm } => {
                words.bytes() + positions.bytes() + types.as_ref().map_or(0, Aligned::bytes) + norm.bytes()
            }
            Self::Gemm(matrix) => matrix.bytes(),
            Self::GemmInt8(matrix) => matrix.bytes(),
            Self::Quantise(factors) => factors.as_ref().map_or(0, |factors| factors.len() * size_of::<f32>()),
            Self::Norm(norm) => norm.bytes(),
            Self::None => 0,
        }
    }
}

impl Norm {
    fn bytes(&self) -> usize {
        (self.gain.len() + self.shift.len()) * size_of::<f32>()
    }
}

/// Memory that slots come to on so many threads, with as many tokens as run together.
pub(super) fn arena_bytes(program: &Program, threads: usize) -> usize {
    let room = Room { tokens: TOKENS_TOGETHER * threads, sequences: 1, marks: 0, local: local_rows(threads) };
    Places::new(program, &room).bytes()
}

/// Where an arena begins.
#[derive(Clone, Copy)]
struct Start(*mut u8);

// SAFETY: a pointer; what is done with it is unsafe and answers for itself.
unsafe impl Sync for Start {}

/// One batch being run.
struct Run<'a, D: Kind> {
    net: &'a Net<D>,
    schedule: &'a Schedule,
    batch: &'a Packed<'a>,
    start: Start,
    observer: Option<&'a Observer>,
}

impl<D: Kind> Run<'_, D> {
    /// # Safety
    /// Each tile is done once, and after all tiles of earlier steps.
    unsafe fn tile(&self, step: usize, tile: usize, thread: usize) {
        let step = &self.schedule.steps[step];
        let single = step.tasks.start;
        // SAFETY: as the caller promises; tiles of one step write different rows or columns, as each cut says.
        unsafe {
            match step.cut {
                Cut::Blocks(rows) => {
                    let block = self.schedule.block(rows, tile);
                    let is_whole_group = self.net.program.groups[step.group].tasks == step.tasks;
                    let area = if is_whole_group { Area::Own { thread, first: block.start } } else { Area::Shared };
                    for task in step.tasks.clone() {
                        self.rows(task, block.clone(), area);
                    }
                }
                Cut::Panels { rows, each } => {
                    let panels = self.net.panels(single);
                    self.gemm(single, 0..rows, tile * each..panels.min((tile + 1) * each), Area::Shared);
                }
                Cut::Heads => self.heads(single, tile, thread),
                Cut::Gathered => self.gather(single, tile),
            }
        }
    }

    /// A row-wise task for some rows.
    unsafe fn rows(&self, task: usize, rows: Range<usize>, area: Area) {
        let net = self.net;
        // SAFETY: slots have these rows, which are this tile's alone.
        unsafe {
            match (&net.program.tasks[task], &net.weights[task]) {
                (Task::Embed { out, .. }, Weights::Embed { words, positions, types, norm }) => {
                    let (wide, operand) = self.forms(*out, area);
                    let batch = self.batch;
                    let Norm { gain, shift, epsilon } = norm;
                    let norm = normalize::Norm { gain, shift, epsilon: *epsilon };
                    let tables = Tables { words, positions, types: types.as_deref(), norm };
                    embed::<D::V, D::Element>(&tables, batch.ids, batch.types, batch.splits, rows, wide, operand);
                }
                (Task::Round { input, output }, _) => {
                    let width = net.program.slots[input.0].width;
                    round::<D::V>(rows, width, self.view(*input, area), self.view(*output, area));
                }
                (Task::Quantise { input, bytes, range, .. }, Weights::Quantise(factors)) => {
                    let slot = &net.program.slots[input.0];
                    let (to, ranges) = (self.view::<u8>(*bytes, area), self.view::<[f32; 2]>(*range, area));
                    let factors = factors.as_deref();
                    match slot.form {
                        Form::Wide => quantise(rows, slot.width, self.view::<f32>(*input, area), factors, to, ranges),
                        _ => quantise(rows, slot.width, self.view::<D::Element>(*input, area), factors, to, ranges),
                    }
                }
                (Task::AddNorm { input, residual, out, .. }, Weights::Norm(norm)) => {
                    let (wide, operand) = self.forms(*out, area);
                    let from = |view: View<f32>| view.starting_at(rows.start);
                    let input = from(self.view(*input, area));
                    let residual = residual.map(|residual| from(self.view(residual, area)));
                    let (wide, operand) = (wide.map(from), operand.map(|operand| operand.starting_at(rows.start)));
                    add_norm::<D::V>(
                        rows.len(),
                        norm.gain.len(),
                        input,
                        residual,
                        &norm.gain,
                        &norm.shift,
                        norm.epsilon,
                        wide,
                        operand,
                    );
                }
                _ => self.gemm(task, rows, 0..net.panels(task), area),
            }
        }
    }

    unsafe fn gemm(&self, task: usize, rows: Range<usize>, panels: Range<usize>, area: Area) {
        let Task::Gemm { weight, input, range, activation, output, .. } = self.net.program.tasks[task] else {
            unreachable!("other tasks are done elsewhere")
        };
        if let Some(observer) = self.observer.filter(|_| panels.start == 0) {
            let (width, view) = (self.net.program.slots[input.0].width, self.view::<D::Element>(input, area));
            for row in rows.clone() {
                // SAFETY: slots have these rows, which nobody writes now.
                let numbers = unsafe { std::slice::from_raw_parts(view.at(row, 0), width) };
                observer.note(weight, row, &numbers.iter().map(|x| x.number()).collect::<Vec<_>>());
            }
        }
        let is_wide = self.net.program.slots[output.0].form == Form::Wide;
        // SAFETY: slots have these rows; these rows and panels are this tile's alone.
        unsafe {
            match &self.net.weights[task] {
                Weights::Gemm(matrix) => {
                    let left = Left {
                        rows: self.view(input, area),
                        each: View::new(std::ptr::NonNull::dangling().as_ptr(), 0),
                    };
                    if is_wide {
                        multiply::<D, f32>(&left, rows, matrix, panels, activation, self.view(output, area));
                    } else {
                        multiply::<D, D::Element>(&left, rows, matrix, panels, activation, self.view(output, area));
                    }
                }
                Weights::GemmInt8(matrix) => {
                    let each = range
                        .map(|range| self.view(range, area))
                        .unwrap_or(View::new(std::ptr::NonNull::dangling().as_ptr(), 0));
                    let left = Left { rows: self.view(input, area), each };
                    if is_wide {
                        multiply::<Int8, f32>(&left, rows, matrix, panels, activation, self.view(output, area));
                    } else {
                        multiply::<Int8, D::Element>(&left, rows, matrix, panels, activation, self.view(output, area));
                    }
                }
                _ => unreachable!("products have matrices"),
            }
        }
    }

    /// A tile of attention.
    unsafe fn heads(&self, task: usize, tile: usize, thread: usize) {
        let Task::Attend { qkv, heads, size, output } = self.net.program.tasks[task] else {
            unreachable!("only attention is cut by heads")
        };
        let tile = &self.schedule.heads[tile];
        let (start, end) = (self.batch.splits[tile.sequence], self.batch.splits[tile.sequence + 1]);
        let (width, stride) = (heads * size, self.net.program.slots[output.0].stride);
        let mut scratch = self.net.scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
        for head in tile.heads.clone() {
            // What fills the rows up is written with the last head.
            let pad = if head + 1 == heads { (width.next_multiple_of(PADDING)).min(stride) - width } else { 0 };
            // SAFETY: slots have the rows of the sequence; these queries of this head are this tile's alone.
            unsafe {
                let qkv = self.view::<D::Element>(qkv, Area::Shared);
                let part = |part: usize| View::new(qkv.at(start, part * width + head * size), qkv.stride);
                let out = self.view::<D::Element>(output, Area::Shared);
                let out = View::new(out.at(start, head * size), out.stride);
                attend::<D>(&mut scratch, part(0), part(1), part(2), size, end - start, tile.queries.clone(), out, pad);
            }
        }
    }

    /// A row from tokens' rows.
    unsafe fn gather(&self, task: usize, row: usize) {
        let program = &self.net.program;
        // SAFETY: slots have these rows; this row is this tile's alone.
        unsafe {
            match program.tasks[task] {
                Task::Pool { input, pooling, output } => {
                    let width = program.slots[input.0].width;
                    let (input, output) = (self.view(input, Area::Shared), self.view(output, Area::Shared));
                    pool::<D::V>(pooling, input, self.batch.splits, row..row + 1, width, output);
                }
                Task::Pick { input, output } => {
                    // With what fills rows up, which products read.
                    let (width, marks) = (program.slots[input.0].width.next_multiple_of(PADDING), self.batch.marks);
                    if program.slots[input.0].form == Form::Wide {
                        let (input, output) = (self.view::<f32>(input, Area::Shared), self.view(output, Area::Shared));
                        pick(marks, row..row + 1, width, input, output);
                    } else {
                        let (input, output) =
                            (self.view::<D::Element>(input, Area::Shared), self.view(output, Area::Shared));
                        pick(marks, row..row + 1, width, input, output);
                    }
                }
                _ => unreachable!("other tasks are done elsewhere"),
            }
        }
    }

    fn forms(&self, forms: Forms, area: Area) -> (Option<View<f32>>, Option<View<bf16>>) {
        (forms.wide.map(|slot| self.view(slot, area)), forms.operand.map(|slot| self.view(slot, area)))
    }

    /// Rows of a slot, by their numbers in the batch.
    fn view<T>(&self, id: SlotId, area: Area) -> View<T> {
        let program = &self.net.program;
        let slot = &program.slots[id.0];
        debug_assert_eq!(slot.element, size_of::<T>());
        let bytes = self.net.arena.places.row_zero(program, id, area);
        View::new(self.start.0.wrapping_add(bytes).cast(), slot.stride)
    }
}
