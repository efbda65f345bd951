//! From which op to which a buffer's numbers are needed: what memory is planned by.

use std::ops::RangeInclusive;

use super::Plan;

impl Plan {
    /// For each buffer the op that writes it and the last one that reads it. The output is read when all are done.
    pub(crate) fn lives(&self) -> Vec<RangeInclusive<usize>> {
        let mut lives = vec![(0, 0); self.buffers.len()];
        for (index, op) in self.ops.iter().enumerate() {
            lives[op.output().0] = (index, index);
            for input in op.inputs() {
                lives[input.0].1 = index;
            }
        }
        lives[self.output.0].1 = self.ops.len();
        lives.into_iter().map(|(first, last)| first..=last).collect()
    }
}
