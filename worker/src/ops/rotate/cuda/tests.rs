use super::*;
use crate::cuda::bench::Bench;
use crate::ops::emulation::{Numbers, Shapes, close, read, room};
use crate::ops::normalize::reference::normalize;
use crate::ops::rotate::angles::frequencies;
use crate::ops::rotate::reference::rotate;
use crate::plan::NormKind;

/// A norm of one head, by its numbers.
struct HeadNorm {
    kind: NormKind,
    gain: Vec<f32>,
    shift: Option<Vec<f32>>,
}

impl HeadNorm {
    fn new(kind: NormKind, width: usize, phase: f32) -> Self {
        let wave = |phase| Numbers::wave(Element::F32, width, phase).values;
        let shift = (kind == NormKind::Layer).then(|| wave(phase + 1.0));
        Self { kind, gain: wave(phase).iter().map(|x| 1.0 + x / 4.0).collect(), shift }
    }

    fn put(&self, bench: &mut Bench) -> Norm {
        let (gain, shift) = (bench.put(&self.gain), self.shift.as_ref().map(|shift| bench.put(shift)));
        Norm { kind: self.kind, gain, shift, epsilon: 1e-6 }
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let none = vec![0.0; x.len()];
        normalize(self.kind, x, &self.gain, self.shift.as_ref().unwrap_or(&none), 1e-6)
    }
}

/// What the kernel makes of tokens at these places, in place or not.
fn run(
    qkv: &Numbers,
    places: &[u32],
    heads: Heads,
    norms: Option<&[HeadNorm; 2]>,
    base: f32,
    in_place: bool,
    seed: u64,
) -> Vec<f32> {
    let (mut bench, element) = (Bench::new(seed), qkv.element);
    let qkv_span = qkv.put(&mut bench);
    let rotate = Rotate {
        tokens: places.len(),
        heads,
        element,
        norms: norms.map(|norms| norms.each_ref().map(|norm| norm.put(&mut bench))),
        frequencies: bench.put(&frequencies(heads.width, base).collect::<Vec<_>>()),
        qkv: qkv_span,
        places: bench.put(places),
        output: if in_place { qkv_span } else { room(&mut bench, element, qkv.values.len()) },
    };
    bench.run(rotate.command()).unwrap_or_else(|fault| panic!("{fault}"));
    read(&bench, element, rotate.output)
}

/// Holds each head of each token to the reference, and what is made in place to what is not.
fn follows(places: &[u32], heads: Heads, norms: Option<&[HeadNorm; 2]>, base: f32, seed: u64) {
    Element::ALL.into_iter().for_each(|element| follows_in(element, places, heads, norms, base, seed));
}

fn follows_in(element: Element, places: &[u32], heads: Heads, norms: Option<&[HeadNorm; 2]>, base: f32, seed: u64) {
    let qkv = Numbers::wave(element, places.len() * heads.row(), seed as f32);
    let found = run(&qkv, places, heads, norms, base, false, seed);
    for (row, place) in places.iter().enumerate() {
        let x = qkv.row(row as u32, heads.row());
        let found = found[row * heads.row()..].chunks_exact(heads.width);
        for (head, (x, found)) in x.chunks_exact(heads.width).zip(found).enumerate() {
            let is_key = head >= heads.count;
            let normed = || norms.map_or_else(|| x.to_vec(), |norms| norms[usize::from(is_key)].apply(x));
            let expected =
                if head >= heads.count + heads.shared { x.to_vec() } else { rotate(&normed(), *place as usize, base) };
            let what = format!("{heads:?}, base {base}, norms {}, place {place}, head {head}", norms.is_some());
            // Sums of two numbers may be of their last digits, and f32 has nine.
            close(&what, element, found, &expected, if element == Element::F32 { 1.0 } else { 0.0025 });
        }
    }
    assert_eq!(run(&qkv, places, heads, norms, base, true, seed + 1), found, "in place");
}

#[test]
fn follows_the_reference_for_heads_of_every_width_that_attention_takes() {
    for (seed, width) in (0..).zip([16, 32, 48, 64, 80, 96, 112, 128]) {
        for (count, shared) in [(1, 1), (6, 2)] {
            follows(&[0, 1, 2, 77, 4, 510], Heads { count, shared, width }, None, 1e4, seed);
        }
    }
}

#[test]
fn follows_the_reference_at_any_shape_with_every_schedule() {
    for (seed, mut shapes) in Shapes::of_each_schedule() {
        for kinds in [None, Some([NormKind::Rms; 2]), Some([NormKind::Layer; 2])] {
            let shared = shapes.up_to(3);
            let heads = Heads { count: shared * shapes.up_to(3), shared, width: 16 * shapes.up_to(8) };
            let places: Vec<u32> = (0..shapes.up_to(9)).map(|_| shapes.up_to(8192) as u32).collect();
            let norms = kinds.map(|kinds| kinds.map(|kind| HeadNorm::new(kind, heads.width, 0.4)));
            follows(&places, heads, norms.as_ref(), 1e4, seed);
        }
    }
}

#[test]
fn heads_are_normalised_before_they_are_turned() {
    for (seed, width) in (0..).zip([16, 48, 64, 80, 96, 128]) {
        let heads = Heads { count: 5, shared: 1, width };
        for kinds in [[NormKind::Rms; 2], [NormKind::Layer, NormKind::Rms], [NormKind::Rms, NormKind::Layer]] {
            let [queries, keys] = kinds;
            let norms = [HeadNorm::new(queries, width, 0.1), HeadNorm::new(keys, width, 2.0)];
            follows(&[0, 3, 90], heads, Some(&norms), 1e6, seed);
        }
    }
}

#[test]
fn angles_are_as_precise_at_the_end_of_the_longest_sequences() {
    let places: Vec<u32> = (0..40).map(|row| 40_959 - row * row * 25).collect();
    for (seed, base) in (0..).zip([1e4, 1.6e5, 1e6]) {
        for width in [64, 128] {
            follows(&places, Heads { count: 1, shared: 1, width }, None, base, seed);
        }
    }
}

#[test]
fn other_widths_have_no_kernel() {
    assert!((16..=128).step_by(16).all(Rotate::takes));
    assert!([0, 2, 8, 24, 72, 144, 256].into_iter().all(|width| !Rotate::takes(width)));
}
