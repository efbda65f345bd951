//! The specification, with the sum in double precision.

use super::Best;

/// The best so many entries of a row, or all if there are fewer.
pub(crate) fn top(logits: &[f32], count: usize) -> Best {
    let mut entries: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    entries.sort_by(|(id, logit), (other_id, other)| other.total_cmp(logit).then(id.cmp(other_id)));
    let largest = entries[0].1;
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - f64::from(largest)).exp()).sum();
    entries.truncate(count);
    Best { largest, sum: sum as f32, entries }
}
