//! Values by number, found in the same few steps however many there are.
//!
//! Open addressing with linear probing over the places of a slab. The numbers are the driver's own, given one after the
//! other: multiplying them by the golden ratio spreads such as evenly as can be (Knuth, "The art of computer programming",
//! vol. 3, 6.4). Nothing is ever given out in the order of the table: who wants all sorts them.

use alloc::vec;
use alloc::vec::Vec;

/// Cells at least, so that a few entries need no growing.
const CELLS_MIN: usize = 16;
/// Slots that are not given back.
const SLOTS_MIN: usize = 1_024;

/// Values by number.
#[derive(Debug)]
pub(crate) struct Table<V> {
    /// Places in `slots`, plus one; none is zero. At most half of them are taken.
    cells: Vec<u32>,
    slots: Vec<Slot<V>>,
    /// The first free slot, if it is one.
    free: usize,
    len: usize,
}

#[derive(Debug)]
enum Slot<V> {
    Used(u64, V),
    /// Which is the next free one, if it is one.
    Free(usize),
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { cells: vec![0; CELLS_MIN], slots: Vec::new(), free: usize::MAX, len: 0 }
    }
}

impl<V> Table<V> {
    /// Takes a value in. Says whether the number was free; if not, nothing is changed.
    pub(crate) fn insert(&mut self, key: u64, value: V) -> bool {
        if self.find(key).is_some() {
            return false;
        }
        if (self.len + 1) * 2 > self.cells.len() {
            self.index(self.cells.len() * 2);
        }
        let slot = match self.slots.get(self.free) {
            Some(Slot::Free(next)) => core::mem::replace(&mut self.free, *next),
            Some(Slot::Used(..)) | None => self.slots.len(),
        };
        if slot == self.slots.len() {
            self.slots.push(Slot::Used(key, value));
        } else {
            self.slots[slot] = Slot::Used(key, value);
        }
        self.enter(key, slot);
        self.len += 1;
        true
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<V> {
        let (mut hole, slot) = self.find(key)?;
        let Slot::Used(_, value) = core::mem::replace(&mut self.slots[slot], Slot::Free(self.free)) else {
            return None;
        };
        self.free = slot;
        self.len -= 1;
        // Those behind move up, unless that is before where they belong.
        let mask = self.cells.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let Some(Slot::Used(other, _)) = self.slot(at).map(|slot| &self.slots[slot]) else { break };
            let is_behind_hole = at.wrapping_sub(self.home(*other)) & mask >= at.wrapping_sub(hole) & mask;
            if is_behind_hole {
                self.cells[hole] = self.cells[at];
                hole = at;
            }
        }
        self.cells[hole] = 0;
        self.shrink();
        Some(value)
    }

    pub(crate) fn get(&self, key: u64) -> Option<&V> {
        let (_, slot) = self.find(key)?;
        match &self.slots[slot] {
            Slot::Used(_, value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        let (_, slot) = self.find(key)?;
        match &mut self.slots[slot] {
            Slot::Used(_, value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Used(key, value) => Some((*key, value)),
            Slot::Free(_) => None,
        })
    }

    /// The cell and the slot of a number.
    fn find(&self, key: u64) -> Option<(usize, usize)> {
        let mask = self.cells.len() - 1;
        let mut at = self.home(key);
        loop {
            let slot = self.slot(at)?;
            if matches!(&self.slots[slot], Slot::Used(other, _) if *other == key) {
                return Some((at, slot));
            }
            at = (at + 1) & mask;
        }
    }

    /// Where a number belongs.
    fn home(&self, key: u64) -> usize {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        (key.wrapping_mul(GOLDEN) >> (u64::BITS - self.cells.len().trailing_zeros())) as usize
    }

    fn slot(&self, cell: usize) -> Option<usize> {
        (self.cells[cell] as usize).checked_sub(1)
    }

    fn enter(&mut self, key: u64, slot: usize) {
        let mask = self.cells.len() - 1;
        let mut at = self.home(key);
        while self.cells[at] != 0 {
            at = (at + 1) & mask;
        }
        self.cells[at] = slot as u32 + 1;
    }

    /// Enters all anew, into so many cells.
    fn index(&mut self, cells: usize) {
        self.cells = vec![0; cells];
        for slot in 0..self.slots.len() {
            if let Slot::Used(key, _) = self.slots[slot] {
                self.enter(key, slot);
            }
        }
    }

    /// Gives back what a flood took, when less than a quarter of it is used.
    fn shrink(&mut self) {
        if self.slots.len() <= SLOTS_MIN || self.len * 4 > self.slots.len() {
            return;
        }
        self.slots.retain(|slot| matches!(slot, Slot::Used(..)));
        self.slots.shrink_to(self.len * 2);
        self.free = usize::MAX;
        self.index((self.len * 2 + 2).next_power_of_two().max(CELLS_MIN));
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;

    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    /// Against an ordered map, with numbers drawn by `key` from the step and a random number.
    fn is_a_map(key: impl Fn(u64, u64) -> u64) {
        let (mut table, mut model, mut state) = (Table::default(), BTreeMap::new(), 1);
        for step in 0..40_000u64 {
            // Up to some thousands and down again, twice.
            let grows = random(&mut state) % 10 < if (step / 10_000).is_multiple_of(2) { 7 } else { 2 };
            let drawn = random(&mut state);
            if grows || model.is_empty() {
                let key = key(step, drawn);
                assert_eq!(table.insert(key, step), !model.contains_key(&key));
                model.entry(key).or_insert(step);
            } else {
                let from = key(step, drawn);
                let key = *model.range(from..).next().or(model.iter().next()).expect("one of them").0;
                assert_eq!(table.remove(key), model.remove(&key));
                assert_eq!((table.remove(key), table.get(key)), (None, None));
            }
            assert_eq!(table.len(), model.len());
            if step.is_multiple_of(997) {
                let mut found: Vec<_> = table.iter().map(|(key, value)| (key, *value)).collect();
                found.sort_unstable();
                assert!(found.into_iter().eq(model.iter().map(|(key, value)| (*key, *value))), "step {step}");
                assert!(model.iter().all(|(key, value)| table.get(*key) == Some(value)), "step {step}");
            }
        }
        let (slots, cells) = (table.slots.len(), table.cells.len());
        assert!(
            slots <= SLOTS_MIN.max(table.len() * 4) && cells <= 8 * slots.max(CELLS_MIN),
            "{slots} slots, {cells} cells"
        );
    }

    #[test]
    fn is_a_map_of_numbers_that_are_given_in_order() {
        is_a_map(|step, _| step);
    }

    #[test]
    fn is_a_map_of_any_numbers() {
        is_a_map(|_, drawn| drawn % 5_000);
        is_a_map(|_, drawn| drawn.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        is_a_map(|step, _| u64::MAX - step * 65_536);
    }

    #[test]
    fn changes_what_it_holds() {
        let mut table = Table::default();
        assert!(table.insert(7, "one"));
        assert!(!table.insert(7, "other"));
        *table.get_mut(7).expect("it is there") = "another";
        assert_eq!(table.get_mut(8), None);
        assert_eq!((table.get(7), table.len()), (Some(&"another"), 1));
        assert_eq!(table.remove(7), Some("another"));
    }
}
