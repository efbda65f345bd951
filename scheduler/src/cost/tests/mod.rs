//! The learned cost against made-up devices.

mod coverage;
mod curve;
mod extremes;
mod golden;
mod noise;
mod pace;
mod shape;
mod speed;
mod window;

use core::time::Duration;

use crate::WorkerId;
use crate::cost::tests::noise::Noise;
use crate::cost::{Costs, Curve, Size};

const W: [WorkerId; 4] = [WorkerId(0), WorkerId(1), WorkerId(2), WorkerId(3)];

/// A small encoder on a GPU: 2 ms, 40 µs a row, 1.5 µs a token, 4 ns a square.
fn gpu() -> Curve {
    Curve::new(2e6, 4e4, 1.5e3, 4.0)
}

/// So many rows of so many tokens each.
fn even(rows: u64, tokens: u64) -> Size {
    Size { rows, tokens: rows * tokens, squares: rows * tokens * tokens }
}

/// 1 to 64 rows of 8 to 256 tokens, small ones as often as large ones.
fn mixed(noise: &mut Noise) -> Size {
    let rows = 1 << noise.below(7);
    let tokens = 8 << noise.below(5);
    let mut size = Size::default();
    for _ in 0..rows {
        size.add(even(1, tokens + noise.below(tokens)));
    }
    size
}

/// What `share` times the curve's time is.
fn taken(curve: &Curve, size: Size, share: f64) -> Duration {
    Duration::from_nanos((curve.time(size) * share) as u64)
}

/// Sizes that traffic like `mixed` is made of.
fn grid() -> impl Iterator<Item = Size> {
    [1, 4, 16, 64].into_iter().flat_map(|rows| [16, 64, 128, 256].map(|tokens| even(rows, tokens)))
}

/// What is expected of worker 0, as a share of what the curve says.
fn ratio(costs: &Costs, size: Size, truth: &Curve) -> f64 {
    costs.expected(W[0], size).as_nanos() as f64 / truth.time(size)
}

/// How far one curve is from another over all sizes: on average, and at the worst of them.
fn distance(found: impl Fn(Size) -> f64, truth: &Curve) -> (f64, f64) {
    let errors: Vec<_> = grid().map(|size| (found(size) / truth.time(size) - 1.0).abs()).collect();
    (errors.iter().sum::<f64>() / errors.len() as f64, errors.into_iter().fold(0.0, f64::max))
}
