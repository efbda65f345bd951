//! Numbers for kernels on the emulator, and how near they must come to the reference.

use half::bf16;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// Shapes to come, the same each time.
#[derive(Debug)]
pub(crate) struct Shapes(SmallRng);

impl Shapes {
    /// With a seed of the emulator for each order in which it runs threads: in turn, at random, ahead.
    pub(crate) fn of_each_schedule() -> impl Iterator<Item = (u64, Self)> {
        (0..3).map(|seed| (seed, Self(SmallRng::seed_from_u64(seed))))
    }

    /// From 1 to this.
    pub(crate) fn up_to(&mut self, max: usize) -> usize {
        self.0.random_range(1..=max)
    }

    /// A multiple of 8 for each class of widths.
    pub(crate) fn of_each_class(&mut self) -> impl Iterator<Item = usize> {
        [(0, 256), (256, 512), (512, 768), (768, 1024), (1024, 2048)]
            .into_iter()
            .map(|(above, max)| above + 8 * self.up_to((max - above) / 8))
    }
}

/// Numbers as the kernels have them.
#[derive(Clone, Debug)]
pub(crate) struct Bf16s(pub(crate) Vec<bf16>);

impl Bf16s {
    /// From -1 to 1, different for every phase.
    pub(crate) fn wave(count: usize, phase: f32) -> Self {
        // The square keeps rows of any width from being alike.
        let at = |index: usize| (index as f32 * 0.731 + (index as f32 * 0.013).powi(2) + phase).sin();
        Self((0..count).map(|index| bf16::from_f32(at(index))).collect())
    }

    pub(crate) fn wide(&self) -> Vec<f64> {
        self.0.iter().map(|x| x.to_f64()).collect()
    }

    pub(crate) fn row(&self, row: u32, width: usize) -> Vec<f64> {
        self.0[row as usize * width..][..width].iter().map(|x| x.to_f64()).collect()
    }
}

/// Each number must be the reference's, rounded to bfloat16: half a unit in the last place is 2⁻⁸ of it at most, and what
/// f32 loses before is little. `slack` is what else it may be off.
pub(crate) fn close(what: &str, found: &[bf16], expected: &[f64], slack: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found.to_f64() - expected).abs();
        assert!(off <= expected.abs() / 250.0 + slack + 1e-5, "{what}, {index}: {found}, not {expected}");
    }
}
