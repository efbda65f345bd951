//! Where the slots of a program lie: in one piece of memory, those whose lives do not overlap in the same place.
//!
//! Slots that live within one row-wise group are local: each thread has its own, for a block of rows, and uses the same
//! memory for block after block and group after group, so that it stays in the thread's cache. A batch too small for
//! blocks uses the area of all threads as one.

use std::collections::TryReserveError;

use super::program::{GroupKind, Program, Slot, SlotId};
use super::schedule::BLOCK_ROWS_MAX;
use crate::cpu::memory::Aligned;
use crate::plan::Rows;

/// How many rows there is room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) tokens: usize,
    pub(super) sequences: usize,
    pub(super) marks: usize,
    /// Rows of local slots, of all threads together.
    pub(super) local: usize,
}

impl Room {
    pub(super) fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.tokens,
            Rows::Sequences => self.sequences,
            Rows::Marks => self.marks,
        }
    }

    /// Whether everything fits that fits in `other`.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.union(other) == *self
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        Self {
            tokens: self.tokens.max(other.tokens),
            sequences: self.sequences.max(other.sequences),
            marks: self.marks.max(other.marks),
            local: self.local.max(other.local),
        }
    }
}

/// Memory for a program's slots.
#[derive(Debug)]
pub(super) struct Arena {
    pub(super) room: Room,
    pub(super) places: Places,
    memory: Aligned<u8>,
}

impl Arena {
    /// Room for nothing.
    pub(super) fn empty(program: &Program) -> Self {
        let room = Room::default();
        Self { room, places: Places::new(program, &room), memory: Aligned::zeroed(0) }
    }

    /// Makes room for so many rows, and for all there was room for unless that is too much together. What was in it is lost.
    /// Where the system refuses the address space, there is room for nothing.
    pub(super) fn grow(&mut self, program: &Program, room: &Room) -> Result<(), TryReserveError> {
        let union = self.room.union(room);
        // Given back first, since both at once may be too much.
        *self = Self::empty(program);
        *self = Self::with(program, union).or_else(|_| Self::with(program, *room))?;
        Ok(())
    }

    fn with(program: &Program, room: Room) -> Result<Self, TryReserveError> {
        let places = Places::new(program, &room);
        let mut memory = Aligned::try_zeroed(places.bytes())?;
        if cfg!(test) {
            // No number in any form: what is read before it is written shows.
            memory.fill(0xff);
        }
        Ok(Self { room, memory, places })
    }

    /// Where the memory begins, to be read and written by several threads.
    pub(super) fn start(&mut self) -> *mut u8 {
        self.memory.as_mut_ptr()
    }
}

/// Where each slot begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// Bytes from the start of the memory; of a local slot, bytes from the start of its area for each row in the area.
    offsets: Vec<usize>,
    is_local: Vec<bool>,
    /// Where the local area begins, its rows, and the bytes of one.
    local_start: usize,
    local_rows: usize,
    local_row: usize,
}

/// Which rows of memory a tile has its local slots in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    /// Those of all threads as one, row by row as the batch has them.
    Shared,
    /// A thread's own, in which row `first` of the batch comes first.
    Own { thread: usize, first: usize },
}

/// A stretch of memory, and when it is in use.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    first: usize,
    last: usize,
    bytes: usize,
    offset: usize,
}

impl Places {
    pub(super) fn new(program: &Program, room: &Room) -> Self {
        let is_local: Vec<bool> = program.slots.iter().map(|slot| program.is_local(slot)).collect();
        let (mut global, mut local) = (Vec::new(), Vec::new());
        // Which stretch each slot lies in.
        let mut homes: Vec<usize> = Vec::new();
        let mut replaced = vec![false; program.slots.len()];
        for (index, slot) in program.slots.iter().enumerate() {
            let row = slot.stride * slot.element;
            if is_local[index] {
                homes.push(local.len());
                local.push(Stretch {
                    first: slot.written,
                    last: slot.read,
                    bytes: row.next_multiple_of(64),
                    offset: 0,
                });
                continue;
            }
            let (first, last) = (program.group_of(slot.written), program.group_of(slot.read));
            if let Some(before) = predecessor(program, index, &is_local, &replaced) {
                replaced[before] = true;
                let home = homes[before];
                global[home] = Stretch { last, ..global[home] };
                homes.push(home);
            } else {
                homes.push(global.len());
                let bytes = (room.rows(slot.rows) * row).next_multiple_of(64);
                global.push(Stretch { first, last, bytes, offset: 0 });
            }
        }
        let (local_start, local_row) = (fit(&mut global), fit(&mut local));
        let offset =
            |(home, is_local): (usize, &bool)| if *is_local { local[home].offset } else { global[home].offset };
        let offsets = homes.into_iter().zip(&is_local).map(offset).collect();
        Self { offsets, is_local, local_start, local_rows: room.local, local_row }
    }

    pub(super) fn bytes(&self) -> usize {
        self.local_start + self.local_rows * self.local_row
    }

    /// Where row 0 of the batch is, or would be: bytes from the start of the memory, modulo all of `usize`, since in an
    /// area of its own a thread has only rows from its first on.
    pub(super) fn row_zero(&self, program: &Program, SlotId(slot): SlotId, area: Area) -> usize {
        let offset = self.offsets[slot];
        match area {
            _ if !self.is_local[slot] => offset,
            Area::Shared => self.local_start + self.local_rows * offset,
            Area::Own { thread, first } => {
                let start = self.local_start + BLOCK_ROWS_MAX * (thread * self.local_row + offset);
                let Slot { stride, element, .. } = program.slots[slot];
                start.wrapping_sub(first * stride * element)
            }
        }
    }
}

/// A slot that is read for the last time in the group that writes slot `index`, before it does, and whose rows are as
/// long: since groups work row by row, its rows may be overwritten.
fn predecessor(program: &Program, index: usize, is_local: &[bool], replaced: &[bool]) -> Option<usize> {
    let slot = &program.slots[index];
    let group = program.group_of(slot.written);
    if !matches!(program.groups[group].kind, GroupKind::RowWise(_)) {
        return None;
    }
    let fits = |before: &Slot| {
        before.rows == slot.rows
            && before.stride * before.element == slot.stride * slot.element
            && program.group_of(before.written) < group
            && program.group_of(before.read) == group
            && before.read < slot.written
    };
    (0..index).find(|before| !is_local[*before] && !replaced[*before] && fits(&program.slots[*before]))
}

/// Gives every stretch the lowest offset that is free while it is in use, the largest first; says where the last ends.
fn fit(stretches: &mut [Stretch]) -> usize {
    let mut order: Vec<usize> = (0..stretches.len()).collect();
    order.sort_by_key(|stretch| std::cmp::Reverse(stretches[*stretch].bytes));
    let mut end = 0;
    for (done, &index) in order.iter().enumerate() {
        let stretch = stretches[index];
        let meets = |other: &Stretch| other.first <= stretch.last && stretch.first <= other.last;
        let mut others: Vec<Stretch> = order[..done].iter().map(|other| stretches[*other]).filter(meets).collect();
        others.sort_by_key(|other| other.offset);
        let mut offset = 0;
        for other in others {
            if offset + stretch.bytes <= other.offset {
                break;
            }
            offset = offset.max(other.offset + other.bytes);
        }
        stretches[index].offset = offset;
        end = end.max(offset + stretch.bytes);
    }
    end
}
