//! The specification.

pub(crate) fn pick<T: Clone>(rows: &[Vec<T>], marks: &[usize]) -> Vec<Vec<T>> {
    marks.iter().map(|mark| rows[*mark].clone()).collect()
}
