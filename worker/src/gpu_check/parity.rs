//! Each op on random numbers and shapes, against its reference loop.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{CheckError, GpuCheck};
use crate::cuda::bench::Bench;
use crate::cuda::driver::Span;
use crate::cuda::element::Element;
use crate::plan::{Activation, Heads, Mask, NormKind, Pooling};

mod attention;
mod int8;
mod products;
mod rows;

/// How far one op is from its reference.
#[derive(Clone, Debug)]
pub struct Parity {
    /// Such as `attend`.
    pub op: &'static str,
    /// What it computes with: `bf16`, `f16` or `f32`.
    pub dtype: &'static str,
    /// Its shape, for people.
    pub case: String,
    /// ‖found - expected‖ / ‖expected‖; not a number if anything was not written.
    pub apart: f64,
    /// What that may be at most.
    pub apart_max: f64,
}

/// Random numbers, of a kind that kernels take.
struct Numbers {
    element: Element,
    wide: Vec<f64>,
}

impl GpuCheck {
    /// Every kernel of our own on fresh numbers, over every class of shapes that has code of its own.
    #[must_use]
    pub fn kernels(&self) -> Vec<Parity> {
        Element::ALL.into_iter().flat_map(|element| self.kernels_of(element)).collect()
    }

    fn kernels_of(&self, element: Element) -> Vec<Parity> {
        let mut draw = Draw::new(self, element);
        for width in [8, 256, 384, 512, 768, 1024, 2048] {
            for (kind, has_shift) in [(NormKind::Layer, true), (NormKind::Layer, false), (NormKind::Rms, false)] {
                let case = format!("37 x {width}, {kind:?}, shift {has_shift}");
                draw.note("add-norm", case, |draw| draw.add_norm(37, width, kind, has_shift));
            }
            for (has_positions, has_types, has_norm) in
                [(true, true, true), (true, false, true), (false, false, true), (false, false, false)]
            {
                let case = format!("37 x {width}, positions {has_positions}, types {has_types}, norm {has_norm}");
                draw.note("embed", case, |draw| draw.embed(37, width, has_positions, has_types, has_norm));
            }
        }
        for width in [16, 32, 48, 64, 80, 96, 128] {
            for lengths in [&[1, 17, 31, 32, 33, 63, 64, 65][..], &[128, 200, 3], &[257]] {
                for mask in [Mask::None, Mask::Causal, Mask::Window(20), Mask::Window(64)] {
                    for heads in [Heads { count: 3, shared: 3, width }, Heads { count: 4, shared: 2, width }] {
                        let case = format!("{heads:?}, {mask:?}, lengths {lengths:?}");
                        draw.note("attend", case, |draw| draw.attention(heads, mask, lengths));
                    }
                }
            }
            for has_norms in [false, true] {
                for in_place in [false, true] {
                    let heads = Heads { count: 6, shared: 2, width };
                    let case = format!("{heads:?}, norms {has_norms}, in place {in_place}");
                    draw.note("rotate", case, |draw| draw.rotation(heads, has_norms, in_place));
                }
            }
        }
        for activation in Activation::ALL {
            for has_residual in [false, true] {
                let case = format!("{activation:?}, 9 x 1000, residual {has_residual}");
                draw.note("activate", case, |draw| draw.activation(activation, 9, 1000, has_residual));
            }
            draw.note("gate", format!("{activation:?}, 9 x 1000"), |draw| draw.gate(activation, 9, 1000));
        }
        for pooling in Pooling::ALL {
            for into in BTreeSet::from([Element::F32, element]) {
                draw.note("pool", format!("{pooling:?}, into {into:?}"), |draw| draw.pooling(pooling, into));
            }
        }
        draw.note("pick", "4 of 20 x 768".to_owned(), |draw| draw.pick(768));
        for vocabulary in [7, 511, 30_522] {
            draw.note("top", format!("5 of {vocabulary}"), |draw| draw.top(vocabulary));
        }
        draw.found
    }
}

/// Draws numbers, runs ops on them, and notes how far they are off.
struct Draw<'a> {
    random: StdRng,
    element: Element,
    check: &'a GpuCheck,
    found: Vec<Parity>,
}

impl<'a> Draw<'a> {
    fn new(check: &'a GpuCheck, element: Element) -> Self {
        Self { random: StdRng::seed_from_u64(check.seed), element, check, found: Vec::new() }
    }

    fn bench(&self) -> Bench {
        Bench::on(&self.check.queue)
    }

    fn numbers(&mut self, count: usize) -> Numbers {
        let element = self.element;
        let mut bytes = vec![0; count * element.bytes()];
        element.write((0..count).map(|_| self.random.random_range(-1.0..1.0f32)), &mut bytes);
        Numbers { element, wide: element.read(&bytes).into_iter().map(f64::from).collect() }
    }

    /// Room for so many numbers, none of them one yet.
    fn room(&self, bench: &mut Bench, count: usize) -> Span {
        bench.room::<u8>(count * self.element.bytes())
    }

    fn read(&self, bench: &Bench, span: Span) -> Vec<f64> {
        read(bench, span, self.element)
    }

    fn vector(&mut self, width: usize, centre: f32) -> Vec<f32> {
        (0..width).map(|_| centre + self.random.random_range(-0.3..0.3f32)).collect()
    }

    /// Runs an op and notes how far what it found is from what was expected; one that does not run is as far as can be.
    fn note(&mut self, op: &'static str, case: String, run: impl FnOnce(&mut Self) -> Result<Compared, CheckError>) {
        self.note_within(apart_max(self.element), op, case, run);
    }

    /// The same, with another bound than other ops of this kind of number have.
    fn note_within(
        &mut self,
        apart_max: f64,
        op: &'static str,
        case: String,
        run: impl FnOnce(&mut Self) -> Result<Compared, CheckError>,
    ) {
        let (case, apart) = match run(self) {
            Ok(compared) => (case, compared.apart()),
            Err(error) => (format!("{case}: {error}"), f64::NAN),
        };
        self.found.push(Parity { op, dtype: self.element.name(), case, apart, apart_max });
    }
}

/// What an op gave, and what it should have.
struct Compared {
    found: Vec<f64>,
    expected: Vec<f64>,
}

impl Compared {
    fn apart(&self) -> f64 {
        if self.found.len() != self.expected.len() {
            return f64::NAN;
        }
        let off: f64 = self.found.iter().zip(&self.expected).map(|(found, expected)| (found - expected).powi(2)).sum();
        let all: f64 = self.expected.iter().map(|expected| expected.powi(2)).sum();
        (off / all).sqrt()
    }
}

impl Numbers {
    fn put(&self, bench: &mut Bench) -> Span {
        self.put_as(self.element, bench)
    }

    fn put_as(&self, element: Element, bench: &mut Bench) -> Span {
        let mut bytes = vec![0; self.wide.len() * element.bytes()];
        element.write(self.wide.iter().map(|x| *x as f32), &mut bytes);
        bench.put(&bytes)
    }
}

/// How far an op may be from its reference, whose numbers are double: of kinds that are rounded a few times the rounding,
/// of f32 what sums of some thousand numbers lose.
fn apart_max(element: Element) -> f64 {
    match element {
        Element::Bf16 => 1e-2,
        Element::F16 => 2e-3,
        Element::F32 => 1e-5,
    }
}

fn read(bench: &Bench, span: Span, element: Element) -> Vec<f64> {
    element.read(&bench.read::<u8>(span)).into_iter().map(f64::from).collect()
}
