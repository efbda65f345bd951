//! Every task finds in memory what was written for it, however a batch is cut and in whatever order tiles are done.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use crate::backend::cpu::arena::{Area, Arena, Places, Room};
use crate::backend::cpu::net::Net;
use crate::backend::cpu::program::{Forms, Multiply, Operands, Program, SlotId, Task};
use crate::backend::cpu::schedule::{Cut, Schedule, local_rows};
use crate::batch::BatchError;
use crate::cpu::avx2::Avx2;
use crate::cpu::dot::F32;
use crate::cpu::team::Team;
use crate::model::Model;
use crate::model::testing::fixtures;
use crate::plan::{Packed, Rows, WeightId};

/// The memory of one batch, as which slot's which row each word of it holds.
struct Memory<'a> {
    program: &'a Program,
    places: Places,
    words: BTreeMap<usize, (SlotId, usize)>,
}

/// Bytes of a word: the shortest row, a range, has one.
const WORD: usize = 8;

/// How each product is computed.
type Choose = fn(WeightId) -> Multiply;

impl Memory<'_> {
    /// The words of a row.
    fn row(&self, slot: SlotId, row: usize, area: Area) -> impl Iterator<Item = usize> + use<> {
        let described = &self.program.slots[slot.0];
        let bytes = described.stride * described.element;
        let start = self.places.row_zero(self.program, slot, area).wrapping_add(row * bytes);
        assert!(start + bytes <= self.places.bytes(), "row {row} of {described:?} ends beyond the memory");
        (start..start + bytes).step_by(WORD)
    }

    fn write(&mut self, slot: SlotId, row: usize, area: Area) {
        for word in self.row(slot, row, area) {
            self.words.insert(word, (slot, row));
        }
    }

    fn read(&self, task: usize, slot: SlotId, row: usize, area: Area) {
        for word in self.row(slot, row, area) {
            let found = self.words.get(&word);
            assert_eq!(found, Some(&(slot, row)), "task {task} reads row {row} of {:?}", self.program.slots[slot.0]);
        }
    }
}

fn reads(task: &Task) -> Vec<SlotId> {
    match *task {
        Task::Embed { .. } => vec![],
        Task::Round { input, .. }
        | Task::Quantise { input, .. }
        | Task::Gate { input, .. }
        | Task::Pool { input, .. }
        | Task::Pick { input, .. } => vec![input],
        Task::Gemm { input, range, residual, .. } => [Some(input), range, residual].into_iter().flatten().collect(),
        Task::AddNorm { input, residual, .. } => [Some(input), residual].into_iter().flatten().collect(),
        Task::Rotate { qkv, .. } | Task::Attend { qkv, .. } => vec![qkv],
    }
}

fn writes(task: &Task) -> Vec<SlotId> {
    match *task {
        Task::Embed { out: Forms { wide, operand }, .. } | Task::AddNorm { out: Forms { wide, operand }, .. } => {
            [wide, operand].into_iter().flatten().collect()
        }
        Task::Quantise { bytes, range, .. } => vec![bytes, range],
        Task::Round { output, .. }
        | Task::Gemm { output, .. }
        | Task::Gate { output, .. }
        | Task::Rotate { output, .. }
        | Task::Attend { output, .. }
        | Task::Pool { output, .. }
        | Task::Pick { output, .. } => vec![output],
    }
}

/// Does a batch with threads taking tiles in turn, from the last one backwards if `backwards`.
fn simulate(program: &Program, batch: &Packed<'_>, threads: usize, backwards: bool) {
    let mut schedule = Schedule::default();
    schedule.plan(program, batch, threads, |_| 7);
    let room = Room {
        tokens: batch.rows(Rows::Tokens),
        sequences: batch.rows(Rows::Sequences),
        marks: batch.rows(Rows::Marks),
        local: local_rows(threads),
    };
    let mut memory = Memory { program, places: Places::new(program, &room), words: BTreeMap::new() };
    for (step, &tiles) in schedule.steps.iter().zip(&schedule.tiles) {
        for turn in 0..tiles {
            let tile = if backwards { tiles - 1 - turn } else { turn };
            for task in step.tasks.clone() {
                let (from, to) = (reads(&program.tasks[task]), writes(&program.tasks[task]));
                match step.cut {
                    Cut::Blocks(rows) => {
                        let block = schedule.block(rows, tile);
                        let whole = program.groups[step.group].tasks == step.tasks;
                        let area =
                            if whole { Area::Own { thread: turn % threads, first: block.start } } else { Area::Shared };
                        for row in block {
                            from.iter().for_each(|slot| memory.read(task, *slot, row, area));
                            to.iter().for_each(|slot| memory.write(*slot, row, area));
                        }
                    }
                    Cut::Panels { rows, .. } => {
                        for row in 0..rows {
                            from.iter().for_each(|slot| memory.read(task, *slot, row, Area::Shared));
                            // Its columns: seen as written when the last tile is done.
                            if turn + 1 == tiles {
                                to.iter().for_each(|slot| memory.write(*slot, row, Area::Shared));
                            }
                        }
                    }
                    Cut::Heads | Cut::Gathered => {
                        for row in 0..batch.rows(program.slots[from[0].0].rows) {
                            memory.read(task, from[0], row, Area::Shared);
                        }
                        for slot in to {
                            if turn + 1 == tiles {
                                (0..batch.rows(program.slots[slot.0].rows))
                                    .for_each(|row| memory.write(slot, row, Area::Shared));
                            }
                        }
                    }
                }
            }
        }
    }
    for row in 0..batch.rows(program.slots[program.output.0].rows) {
        memory.read(program.tasks.len(), program.output, row, Area::Shared);
    }
}

#[test]
fn every_task_reads_what_was_written_for_it() {
    let lengths: [&[usize]; 4] = [&[1], &[5, 11, 2], &[64, 64], &[130, 1, 70, 200]];
    for folder in [
        "bert-embed",
        "bert-classify",
        "roberta-fill",
        "distilbert-rerank",
        "modernbert-embed",
        "modernbert-fill",
        "qwen3-embed",
    ] {
        let model = Model::read(&fixtures().join(folder)).unwrap();
        let kinds: [(Operands, Choose); 4] = [
            (Operands::F32, |_| Multiply::Operands),
            (Operands::Bf16, |_| Multiply::Operands),
            (Operands::Bf16, |_| Multiply::Int8),
            (Operands::Bf16, |WeightId(weight)| if weight % 2 == 0 { Multiply::Int8 } else { Multiply::Operands }),
        ];
        for (operands, multiply) in kinds {
            let program = Program::new(&model.plan, operands, multiply);
            for lengths in lengths {
                let mut splits = vec![0];
                lengths.iter().for_each(|length| splits.push(splits[splits.len() - 1] + length));
                let tokens = splits[splits.len() - 1];
                let (ids, marks) = (vec![0; tokens], splits[..lengths.len()].to_vec());
                let batch = Packed { ids: &ids, types: &[], splits: &splits, marks: &marks };
                for threads in [1, 2, 5] {
                    for backwards in [false, true] {
                        simulate(&program, &batch, threads, backwards);
                    }
                }
            }
        }
    }
}

#[test]
fn memory_that_is_not_there_is_an_error_and_less_is_had_again() {
    let model = Model::read(&fixtures().join("bert-embed")).unwrap();
    let program = Program::new(&model.plan, Operands::F32, |_| Multiply::Operands);
    let mut arena = Arena::empty(&program);
    let some = Room { tokens: 8, sequences: 1, marks: 0, local: local_rows(1) };
    arena.grow(&program, &some).unwrap();
    arena.grow(&program, &Room { tokens: 1 << 40, ..some }).unwrap_err();
    assert!(!arena.room.covers(&some));
    arena.grow(&program, &some).unwrap();
    assert!(arena.room.covers(&some));
}

#[test]
fn a_batch_has_its_own_room_where_there_is_none_for_earlier_ones_as_well() {
    let model = Model::read(&fixtures().join("bert-embed")).unwrap();
    let program = Program::new(&model.plan, Operands::F32, |_| Multiply::Operands);
    let mut arena = Arena::empty(&program);
    // More than any system has addresses for.
    arena.room.tokens = 1 << 40;
    let some = Room { tokens: 8, sequences: 3, marks: 0, local: local_rows(1) };
    arena.grow(&program, &some).unwrap();
    assert_eq!(arena.room, some);
}

#[test]
fn a_batch_without_room_is_told_how_large_it_is() {
    let model = Model::read(&fixtures().join("distilbert-fill")).unwrap();
    let mut program = Program::new(&model.plan, Operands::F32, |_| Multiply::Operands);
    // Rows that no system has addresses for.
    program.slots[0].stride = 1 << 48;
    let mut net = Net::<F32<Avx2>>::new(program, Vec::new(), 1);
    let batch = Packed { ids: &[1, 2, 3, 4, 5], types: &[], splits: &[0, 2, 5], marks: &[1] };
    let failed = net.run(&mut Team::new(NonZeroUsize::MIN).unwrap(), &batch, &mut Vec::new(), None).unwrap_err();
    let BatchError::OutOfMemory(why) = failed else { panic!("{failed}") };
    assert!(why.starts_with("no room for 5 tokens and 1 masks together: "), "{why}");
}
