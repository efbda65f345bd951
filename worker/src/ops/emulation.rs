//! Numbers for kernels on the emulator, and how near they must come to the reference.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::cuda::bench::Bench;
use crate::cuda::driver::Span;
use crate::cuda::element::Element;

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

/// Numbers as the kernels have them: of a kind, and rounded to it.
#[derive(Clone, Debug)]
pub(crate) struct Numbers {
    pub(crate) element: Element,
    pub(crate) values: Vec<f32>,
}

impl Numbers {
    pub(crate) fn new(element: Element, values: impl IntoIterator<Item = f32>) -> Self {
        let values: Vec<f32> = values.into_iter().collect();
        let mut bytes = vec![0; values.len() * element.bytes()];
        element.write(values.into_iter(), &mut bytes);
        Self { element, values: element.read(&bytes) }
    }

    /// From -1 to 1, different for every phase.
    pub(crate) fn wave(element: Element, count: usize, phase: f32) -> Self {
        Self::wave_of(element, count, phase, 1.0)
    }

    /// From -`size` to that.
    pub(crate) fn wave_of(element: Element, count: usize, phase: f32, size: f32) -> Self {
        // The square keeps rows of any width from being alike.
        let at = |index: usize| (index as f32 * 0.731 + (index as f32 * 0.013).powi(2) + phase).sin();
        Self::new(element, (0..count).map(|index| size * at(index)))
    }

    pub(crate) fn wide(&self) -> Vec<f64> {
        self.values.iter().map(|x| f64::from(*x)).collect()
    }

    pub(crate) fn row(&self, row: u32, width: usize) -> Vec<f64> {
        self.values[row as usize * width..][..width].iter().map(|x| f64::from(*x)).collect()
    }

    pub(crate) fn put(&self, bench: &mut Bench) -> Span {
        let mut bytes = vec![0; self.values.len() * self.element.bytes()];
        self.element.write(self.values.iter().copied(), &mut bytes);
        bench.put(&bytes)
    }
}

/// Room for so many numbers, none of them one yet.
pub(crate) fn room(bench: &mut Bench, element: Element, count: usize) -> Span {
    bench.room::<u8>(count * element.bytes())
}

pub(crate) fn read(bench: &Bench, element: Element, span: Span) -> Vec<f32> {
    element.read(&bench.read::<u8>(span))
}

/// Each number must be the reference's, rounded: half a unit in the last place, which is 2⁻⁹ of a bfloat16 at most and 2⁻¹²
/// of an f16, and what f32 loses before is little. `roundings` are how many times else a number of 1 was rounded.
pub(crate) fn close(what: &str, element: Element, found: &[f32], expected: &[f64], roundings: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let rounding = match element {
        Element::Bf16 => 1.0 / 250.0,
        Element::F16 => 1.0 / 2000.0,
        Element::F32 => 1e-5,
    };
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - expected).abs();
        let is_close = off <= (expected.abs() + roundings) * rounding + 1e-5;
        assert!(is_close, "{what}, {element}, {index}: {found}, not {expected}");
    }
}
