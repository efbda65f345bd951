//! The specification, in double precision.

use crate::plan::Pooling;

/// One vector from the rows of a sequence, of which there is one at least.
pub(crate) fn pool(rows: &[Vec<f64>], pooling: Pooling) -> Vec<f64> {
    let column = |column: usize| rows.iter().map(move |row| row[column]);
    let of = |at: usize| match pooling {
        Pooling::Mean => column(at).sum::<f64>() / rows.len() as f64,
        Pooling::Cls => rows[0][at],
        Pooling::Last => rows[rows.len() - 1][at],
        Pooling::Max => column(at).fold(f64::NEG_INFINITY, f64::max),
    };
    (0..rows[0].len()).map(of).collect()
}
