//! One piece of memory for all buffers of a plan; those that live at different times may lie in the same place.

use std::ops::Range;

use half::bf16;

use crate::plan::{Op, Packed, Plan};

/// Numbers that buffers begin at multiples of: 256 bytes, as far apart as a GPU's allocations.
const ALIGNMENT: usize = 128;

/// The buffers of one batch.
#[derive(Debug)]
pub(super) struct Arena {
    memory: Vec<bf16>,
    /// Where each buffer lies, in numbers.
    places: Vec<Range<usize>>,
}

impl Arena {
    pub(super) fn new(plan: &Plan, batch: &Packed<'_>) -> Self {
        let lives = plan.lives();
        let mut places: Vec<Range<usize>> = Vec::with_capacity(lives.len());
        for (buffer, life) in plan.buffers.iter().zip(&lives) {
            let size = batch.rows(buffer.rows) * buffer.width;
            // Those that are there while it is, from the lowest on; it takes the first gap that is large enough.
            let overlaps = |other: &usize| lives[*other].start() <= life.end() && life.start() <= lives[*other].end();
            let mut taken: Vec<_> = (0..places.len()).filter(overlaps).map(|other| places[other].clone()).collect();
            taken.sort_unstable_by_key(|place| place.start);
            let start = taken.iter().fold(0, |start: usize, place| {
                if start + size <= place.start { start } else { start.max(place.end.next_multiple_of(ALIGNMENT)) }
            });
            places.push(start..start + size);
        }
        let end = places.iter().map(|place| place.end).max().unwrap_or(0);
        Self { memory: vec![bf16::NAN; end], places }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.memory[..])
    }

    /// An op's inputs, empty where it has fewer, and its output, in which nothing is left of before.
    pub(super) fn buffers(&mut self, op: &Op) -> ([&[bf16]; 2], &mut [bf16]) {
        let mut ranges = op.inputs().map(|input| self.places[input.0].clone()).chain([0..0, 0..0]);
        let mut next = || ranges.next().unwrap_or_default();
        let ranges = [next(), next(), self.places[op.output().0].clone()];
        let found = self.memory.get_disjoint_mut(ranges);
        let [first, second, output] = found.expect("what lives at the same time lies apart");
        output.fill(bf16::NAN);
        ([first, second], output)
    }
}
