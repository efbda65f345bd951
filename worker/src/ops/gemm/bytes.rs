//! Numbers as bytes, whatever computes with them: weights with a scale for each column of the product, activations with a
//! scale and a minimum for each row.
//!
//! With `x = s·q + m` for q in 0..=255 and `w = c·v` for v in -127..=127, a product is
//! `Σ x w = c · s · Σ q v + m · c · Σ v`: the first sum is exact in integers, the second is known when weights are
//! quantised.

/// Largest quantised weight. Not -128, so that scales are the same both ways.
const WEIGHT_MAX: f32 = 127.0;
/// 1.5·2^23: next to it numbers are whole, so that adding and taking it away rounds to the nearest.
const ROUND: f32 = 12_582_912.0;
/// Largest quantised activation.
pub(crate) const VALUE_MAX: f32 = 255.0;
/// No range is smaller: a row of equal numbers has none.
pub(crate) const RANGE_MIN: f32 = 1e-20;
/// Depth that a sum of 32 bits holds for certain: 255 · 127 each.
pub(crate) const DEPTH_MAX: usize = (i32::MAX / (255 * 127)) as usize;

/// Quantises the weights of one column; `to` takes a byte at a place among them. Gives the scale c, and c · Σ v.
pub(crate) fn quantise_column(weights: &[f32], mut to: impl FnMut(usize, i8)) -> [f32; 2] {
    let largest = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
    let scale = largest.max(RANGE_MIN) / WEIGHT_MAX;
    let (inverse, mut sum) = (1.0 / scale, 0);
    for (place, weight) in weights.iter().enumerate() {
        // The largest is 127.
        let quantised = ((weight * inverse + ROUND) - ROUND) as i8;
        sum += i32::from(quantised);
        to(place, quantised);
    }
    [scale, scale * sum as f32]
}

/// Quantises a row of activations; `to` takes a byte at a place among them. Gives scale and minimum.
pub(crate) fn quantise_row(row: &[f32], mut to: impl FnMut(usize, u8)) -> [f32; 2] {
    let (mut least, mut most, mut nothing) = (f32::INFINITY, f32::NEG_INFINITY, 0.0);
    for x in row {
        (least, most) = (x.min(least), x.max(most));
        // Minimum and maximum pass over what is no number; times zero it stays none.
        nothing += x * 0.0;
    }
    let scale = (most - least).max(RANGE_MIN) / VALUE_MAX;
    let (inverse, offset) = (1.0 / scale, -least / scale);
    for (place, x) in row.iter().enumerate() {
        // A multiplication and an addition rounded once: in f32 that is a call on processors without the instruction.
        let value = (f64::from(*x) * f64::from(inverse) + f64::from(offset)) as f32;
        to(place, ((value.clamp(0.0, VALUE_MAX) + ROUND) - ROUND) as u8);
    }
    [scale + nothing, least]
}
