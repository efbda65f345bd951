//! The specification, in double precision.

use crate::plan::NormKind;

/// `(x - mean) / √(variance + epsilon) · gain + shift` over one row; an RMS norm takes 0 for the mean.
pub(crate) fn normalize(kind: NormKind, x: &[f64], gain: &[f32], shift: &[f32], epsilon: f32) -> Vec<f64> {
    let mean = match kind {
        NormKind::Layer => x.iter().sum::<f64>() / x.len() as f64,
        NormKind::Rms => 0.0,
    };
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (variance + f64::from(epsilon)).sqrt();
    x.iter()
        .zip(gain.iter().zip(shift))
        .map(|(x, (gain, shift))| (x - mean) * scale * f64::from(*gain) + f64::from(*shift))
        .collect()
}
