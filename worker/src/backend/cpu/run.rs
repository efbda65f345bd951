//! One batch being run: what each tile calls, on which rows and columns of which slots.

use std::ops::Range;
use std::sync::PoisonError;

use half::bf16;

use super::arena::Area;
use super::net::{Kind, Net, Norm, Weights};
use super::program::{Form, Forms, SlotId, Task};
use super::schedule::{Cut, Schedule, Step};
use crate::backend::planned::calibrate::Observer;
use crate::cpu::dot::Int8;
use crate::cpu::memory::{PADDING, Rows as View};
use crate::cpu::simd::Number as _;
use crate::cpu::team::stride;
use crate::ops::attend::cpu::{BLOCK, Head, attend, pack};
use crate::ops::embed::cpu::{Tables, embed};
use crate::ops::gate::cpu::gate;
use crate::ops::gemm::cpu::{Left, Then, multiply};
use crate::ops::gemm::quantise::quantise;
use crate::ops::gemm::round::round;
use crate::ops::normalize::cpu::add_norm;
use crate::ops::pick::cpu::pick;
use crate::ops::pool::cpu::pool;
use crate::ops::rotate::cpu::{Turn, rotate};
use crate::plan::Packed;

/// Where an arena begins.
#[derive(Clone, Copy)]
pub(super) struct Start(pub(super) *mut u8);

// SAFETY: a pointer; what is done with it is unsafe and answers for itself.
unsafe impl Sync for Start {}

/// A batch and what it is run with.
pub(super) struct Run<'a, D: Kind> {
    pub(super) net: &'a Net<D>,
    pub(super) schedule: &'a Schedule,
    pub(super) batch: &'a Packed<'a>,
    pub(super) start: Start,
    pub(super) observer: Option<&'a Observer>,
}

impl<D: Kind> Run<'_, D> {
    /// # Safety
    /// Each tile is done once, and after all tiles of earlier steps.
    pub(super) unsafe fn tile(&self, number: usize, tile: usize, thread: usize) {
        let step = &self.schedule.steps[number];
        let single = step.tasks.start;
        // SAFETY: as the caller promises; tiles of one step write different rows or columns, as each cut says.
        unsafe {
            match step.cut {
                Cut::Blocks(rows) => {
                    let block = self.schedule.block(rows, tile);
                    let is_whole_group = self.net.program.groups[step.group].tasks == step.tasks;
                    let area = if is_whole_group { Area::Own { thread, first: block.start } } else { Area::Shared };
                    for task in step.tasks.clone() {
                        self.rows(task, block.clone(), area, step.tasks.clone());
                    }
                }
                Cut::Panels { rows, each } => {
                    let panels = tile * each..self.net.panels(single).min((tile + 1) * each);
                    let next = self.next_panel(number, tile, thread);
                    let soon = next.unwrap_or_else(|| self.net.panel(single, panels.start));
                    self.gemm(single, 0..rows, panels, Area::Shared, soon);
                }
                Cut::Heads => self.heads(single, tile, thread),
                Cut::Gathered => self.gather(single, tile),
            }
        }
    }

    /// The panel that a thread comes to after a tile of panels, if all threads are on time.
    fn next_panel(&self, step: usize, tile: usize, thread: usize) -> Option<*const u8> {
        let next = tile + stride(self.net.scratch.len(), tile);
        let places = std::iter::once((step, next)).chain((step + 1..).map(|step| (step, thread)));
        places.take_while(|(step, _)| *step < self.schedule.steps.len()).find_map(|(step, tile)| {
            let Step { cut: Cut::Panels { each, .. }, ref tasks, .. } = self.schedule.steps[step] else { return None };
            let panel = tile * each;
            (panel < self.net.panels(tasks.start)).then(|| self.net.panel(tasks.start, panel))
        })
    }

    /// A row-wise task for some rows, one of those that are done with them in turn.
    unsafe fn rows(&self, task: usize, rows: Range<usize>, area: Area, tasks: Range<usize>) {
        let net = self.net;
        // SAFETY: slots have these rows, which are this tile's alone.
        unsafe {
            match (&net.program.tasks[task], &net.weights[task]) {
                (Task::Embed { out, .. }, Weights::Embed { width, words, positions, types, norm }) => {
                    let (wide, operand) = self.forms(*out, area);
                    let batch = self.batch;
                    let tables = Tables {
                        width: *width,
                        words,
                        positions: positions.as_deref(),
                        types: types.as_deref(),
                        norm: norm.as_ref().map(Norm::of),
                    };
                    embed::<D::V, D::Element>(&tables, batch.ids, batch.types, batch.splits, rows, wide, operand);
                }
                (Task::Gate { input, activation, output }, Weights::None) => {
                    let (input, slot) = (self.view(*input, area), &net.program.slots[output.0]);
                    match slot.form {
                        Form::Wide => {
                            gate::<D::V, f32>(rows, slot.width, *activation, input, self.view(*output, area));
                        }
                        _ => gate::<D::V, D::Element>(rows, slot.width, *activation, input, self.view(*output, area)),
                    }
                }
                (Task::Rotate { qkv, heads, base, output, .. }, weights) => {
                    let norms = match weights {
                        Weights::Rotate(norms) => Some(norms.each_ref().map(Norm::of)),
                        _ => None,
                    };
                    let angles = net.angles.find(heads.width, *base).expect("a net has the angles of its program");
                    let (turn, splits) = (Turn { heads: *heads, norms, angles }, self.batch.splits);
                    let input = self.view(*qkv, area);
                    match net.program.slots[output.0].form {
                        Form::Wide => rotate::<D::V, f32>(&turn, splits, rows, input, self.view(*output, area)),
                        _ => rotate::<D::V, D::Element>(&turn, splits, rows, input, self.view(*output, area)),
                    }
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
                    add_norm::<D::V>(rows.len(), &norm.of(), input, residual, wide, operand);
                }
                _ => {
                    // After the last product of a block comes the first one of another.
                    let mut next = (task + 1..tasks.end).chain(tasks);
                    let next = next.find(|task| net.panels(*task) > 0).unwrap_or(task);
                    self.gemm(task, rows, 0..net.panels(task), area, net.panel(next, 0));
                }
            }
        }
    }

    /// Panels of a product for some rows. `soon` is where the weights begin that are probably read next.
    unsafe fn gemm(&self, task: usize, rows: Range<usize>, panels: Range<usize>, area: Area, soon: *const u8) {
        let Task::Gemm { weight, input, range, activation, residual, output, .. } = self.net.program.tasks[task] else {
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
        let then = Then { activation, residual: residual.map(|residual| self.view(residual, area)) };
        // SAFETY: slots have these rows; these rows and panels are this tile's alone.
        unsafe {
            match &self.net.weights[task] {
                Weights::Gemm(matrix) => {
                    let left = Left {
                        rows: self.view(input, area),
                        each: View::new(std::ptr::NonNull::dangling().as_ptr(), 0),
                    };
                    if is_wide {
                        multiply::<D, f32>(&left, rows, matrix, panels, then, self.view(output, area), soon);
                    } else {
                        multiply::<D, D::Element>(&left, rows, matrix, panels, then, self.view(output, area), soon);
                    }
                }
                Weights::GemmInt8(matrix) => {
                    let each = range
                        .map(|range| self.view(range, area))
                        .unwrap_or(View::new(std::ptr::NonNull::dangling().as_ptr(), 0));
                    let left = Left { rows: self.view(input, area), each };
                    if is_wide {
                        multiply::<Int8, f32>(&left, rows, matrix, panels, then, self.view(output, area), soon);
                    } else {
                        multiply::<Int8, D::Element>(&left, rows, matrix, panels, then, self.view(output, area), soon);
                    }
                }
                _ => unreachable!("products have matrices"),
            }
        }
    }

    /// A tile of attention.
    unsafe fn heads(&self, task: usize, tile: usize, thread: usize) {
        let Task::Attend { qkv, heads, mask, output } = self.net.program.tasks[task] else {
            unreachable!("only attention is cut by heads")
        };
        let tile = &self.schedule.heads[tile];
        let (start, end) = (self.batch.splits[tile.sequence], self.batch.splits[tile.sequence + 1]);
        let (width, stride) = (heads.queries(), self.net.program.slots[output.0].stride);
        let head = Head { width: heads.width, keys: end - start, mask };
        let mut scratch = self.net.scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
        let mut packed = None;
        for index in tile.heads.clone() {
            // What fills the rows up is written with the last head.
            let pad = if index + 1 == heads.count { (width.next_multiple_of(PADDING)).min(stride) - width } else { 0 };
            // SAFETY: slots have the rows of the sequence; these queries of this head are this tile's alone.
            unsafe {
                let qkv = self.view::<D::Element>(qkv, Area::Shared);
                let parts =
                    |index: usize| heads.columns(index).map(|column| View::new(qkv.at(start, column), qkv.stride));
                let [q, k, v] = parts(index);
                let out = self.view::<D::Element>(output, Area::Shared);
                let out = View::new(out.at(start, index * heads.width), out.stride);
                // The next head's, which the other cores computed in part: rows too far apart for the processor to foresee.
                // Those of longer sequences would push out what this head still reads.
                if index + 1 < tile.heads.end && head.keys <= BLOCK {
                    let [q, k, v] = parts(index + 1);
                    q.ask(tile.queries.clone(), 0..heads.width);
                    k.ask(0..head.keys, 0..heads.width);
                    v.ask(0..head.keys, 0..heads.width);
                }
                // Heads that share keys and values follow each other.
                let shared = heads.columns(index)[1];
                if packed.replace(shared) != Some(shared) {
                    pack::<D>(&mut scratch, k, v, head);
                }
                attend::<D>(&mut scratch, q, head, tile.queries.clone(), out, pad);
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
    pub(super) fn view<T>(&self, id: SlotId, area: Area) -> View<T> {
        let program = &self.net.program;
        let slot = &program.slots[id.0];
        debug_assert_eq!(slot.element, size_of::<T>());
        let bytes = self.net.arena.places.row_zero(program, id, area);
        View::new(self.start.0.wrapping_add(bytes).cast(), slot.stride)
    }
}
