//! The specification, in double precision.

/// One head of one token, turned by its place.
pub(crate) fn rotate(x: &[f64], place: usize, base: f32) -> Vec<f64> {
    let half = x.len() / 2;
    let mut out = x.to_vec();
    for pair in 0..half {
        let frequency = f64::from(base).powf(-2.0 * pair as f64 / x.len() as f64) as f32;
        let (sine, cosine) = f64::from(place as f32 * frequency).sin_cos();
        out[pair] = x[pair] * cosine - x[half + pair] * sine;
        out[half + pair] = x[half + pair] * cosine + x[pair] * sine;
    }
    out
}
