//! The specification, in double precision.

/// `Σ_j softmax_j(q · k[j]) v[j]` for one query of one head, with the softmax to the base 2.
pub(crate) fn attend<'a>(
    q: &[f64],
    k: impl Iterator<Item = &'a [f64]>,
    v: impl Iterator<Item = &'a [f64]>,
) -> Vec<f64> {
    let scores: Vec<f64> = k.map(|k| q.iter().zip(k).map(|(q, k)| q * k).sum()).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp2()).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0.0; q.len()];
    for (weight, v) in weights.iter().zip(v) {
        for (out, v) in out.iter_mut().zip(v) {
            *out += weight / total * v;
        }
    }
    out
}
