//! The specification, as a loop.

/// `[R, K]` and `[L, K]` and `[L]` to `[R, L]`.
pub(crate) fn gemm(left: &[f32], weight: &[f32], bias: &[f32], activation: impl Fn(f64) -> f64) -> Vec<f64> {
    let inputs = weight.len() / bias.len();
    let product = |row: &[f32], weight: &[f32]| -> f64 {
        row.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
    };
    left.chunks_exact(inputs)
        .flat_map(|row| {
            weight.chunks_exact(inputs).zip(bias).map(move |(weight, bias)| (product(row, weight), f64::from(*bias)))
        })
        .map(|(sum, bias)| activation(sum + bias))
        .collect()
}
