//! Arithmetic on embeddings, in float64 so that the measuring adds no error of its own.

/// Length of a vector.
pub(super) fn norm(vector: &[f32]) -> f64 {
    dot(vector, vector).sqrt()
}

/// Cosine of the angle between two vectors of one length; 0 if one of them is all zeros.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let scale = norm(a) * norm(b);
    if scale == 0.0 { 0.0 } else { dot(a, b) / scale }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::{cosine, norm};

    #[test]
    fn measures_lengths_and_angles() {
        assert_eq!(norm(&[3.0, 4.0]), 5.0);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
        assert!((cosine(&[1.0, 1.0], &[-2.0, -2.0]) + 1.0).abs() < 1e-12);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 2.0]), 0.0);
    }
}
