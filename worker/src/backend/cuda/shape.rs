//! The sizes that commands are made for.

use crate::plan::{Packed, Rows};

/// Steps of token counts from one power of two to the next: what is captured is an eighth too large at most.
const STEPS: usize = 8;
/// Token counts are multiples of this.
const STEP_MIN: usize = 16;

/// Rows of each kind that there is room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Shape {
    /// T
    pub(super) tokens: usize,
    /// N
    pub(super) sequences: usize,
    /// M
    pub(super) marks: usize,
}

impl Shape {
    pub(super) fn of(batch: &Packed<'_>) -> Self {
        let rows = |rows| batch.rows(rows);
        Self { tokens: rows(Rows::Tokens), sequences: rows(Rows::Sequences), marks: rows(Rows::Marks) }
    }

    pub(super) fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.tokens,
            Rows::Sequences => self.sequences,
            Rows::Marks => self.marks,
        }
    }

    /// One of few shapes that is no smaller, so that what was captured for it serves many batches.
    pub(super) fn bucket(&self) -> Self {
        let power = (self.tokens.max(1) + 1).next_power_of_two() / 2;
        Self {
            tokens: self.tokens.next_multiple_of((power / STEPS).max(STEP_MIN)),
            sequences: self.sequences.next_power_of_two(),
            marks: if self.marks == 0 { 0 } else { self.marks.next_power_of_two() },
        }
    }

    /// Whether it has room for another.
    pub(super) fn holds(&self, other: &Self) -> bool {
        self.tokens >= other.tokens && self.sequences >= other.sequences && self.marks >= other.marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(tokens: usize, sequences: usize, marks: usize) -> Shape {
        Shape { tokens, sequences, marks }
    }

    #[test]
    fn a_bucket_is_few_rows_larger() {
        for tokens in 1..5_000 {
            let exact = shape(tokens, tokens.div_ceil(7), tokens / 9);
            let bucket = exact.bucket();
            assert!(bucket.holds(&exact), "{exact:?}");
            assert!(bucket.tokens - tokens < 16.max(tokens / STEPS + 1), "{exact:?} in {bucket:?}");
            assert_eq!(bucket.bucket(), bucket);
        }
    }

    #[test]
    fn there_are_few_buckets() {
        let mut buckets: Vec<_> = (1..=4_096).map(|tokens| shape(tokens, 1, 0).bucket()).collect();
        buckets.dedup();
        assert_eq!(buckets.len(), 8 + 8 * 5, "eight up to 128, and eight for each power of two");
    }

    #[test]
    fn no_marks_are_none_in_the_bucket() {
        assert_eq!(shape(30, 3, 0).bucket(), shape(32, 4, 0));
        assert_eq!(shape(130, 1, 3).bucket(), shape(144, 1, 4));
    }
}
