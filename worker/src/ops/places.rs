//! Where tokens stand in their sequences.

/// Goes through rows of packed sequences from one row on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places<'a> {
    /// Where sequences begin and, last, where they end.
    splits: &'a [usize],
    /// Of the row that was asked for last.
    sequence: usize,
}

impl<'a> Places<'a> {
    pub(super) fn from(splits: &'a [usize], row: usize) -> Self {
        // The last sequence that begins at the row or before it; empty ones before it end there, too.
        Self { splits, sequence: splits.partition_point(|split| *split <= row).saturating_sub(1) }
    }

    /// The place of a row, none of which is before one that was asked for.
    #[inline(always)]
    pub(super) fn of(&mut self, row: usize) -> usize {
        while self.splits[self.sequence + 1] <= row {
            self.sequence += 1;
        }
        row - self.splits[self.sequence]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_anew_in_each_sequence_and_skips_empty_ones() {
        let splits = [0, 2, 2, 3, 6];
        for start in 0..6 {
            let mut places = Places::from(&splits, start);
            let found: Vec<usize> = (start..6).map(|row| places.of(row)).collect();
            assert_eq!(found, [0, 1, 0, 0, 1, 2][start..], "from {start}");
        }
    }
}
