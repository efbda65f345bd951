use super::*;
use crate::cuda::bench::Bench;
use crate::ops::emulation::{Numbers, Shapes, close, read, room};
use crate::ops::normalize::reference;

/// A gain and a shift.
fn gain_and_shift(width: usize) -> [Vec<f32>; 2] {
    let gain = Numbers::wave(Element::F32, width, 0.3).values.iter().map(|x| 1.0 + x / 4.0).collect();
    [gain, Numbers::wave(Element::F32, width, 0.7).values]
}

/// What of an op there is.
#[derive(Clone, Copy, Debug)]
struct Case {
    has_residual: bool,
    has_shift: bool,
    kind: NormKind,
}

const CASES: [Case; 5] = [
    Case { has_residual: false, has_shift: true, kind: NormKind::Layer },
    Case { has_residual: true, has_shift: true, kind: NormKind::Layer },
    Case { has_residual: false, has_shift: false, kind: NormKind::Layer },
    Case { has_residual: true, has_shift: false, kind: NormKind::Rms },
    Case { has_residual: false, has_shift: true, kind: NormKind::Rms },
];

/// Runs the kernels and holds each row to the reference.
fn follows(rows: usize, width: usize, case: Case, seed: u64) {
    Element::ALL.into_iter().for_each(|element| follows_in(element, rows, width, case, seed));
}

fn follows_in(element: Element, rows: usize, width: usize, case: Case, seed: u64) {
    let Case { has_residual, has_shift, kind } = case;
    let [input, residual] = [1.3, 0.4].map(|phase| Numbers::wave(element, rows * width, phase));
    let [gain, shift] = gain_and_shift(width);
    let mut bench = Bench::new(seed);
    let norm = Norm { kind, gain: bench.put(&gain), shift: has_shift.then(|| bench.put(&shift)), epsilon: 1e-12 };
    let add_norm = AddNorm {
        rows,
        width,
        element,
        input: input.put(&mut bench),
        residual: has_residual.then(|| residual.put(&mut bench)),
        norm,
        output: room(&mut bench, element, rows * width),
    };
    bench.run(add_norm.command()).unwrap_or_else(|fault| panic!("{fault}"));
    let shift = if has_shift { shift } else { vec![0.0; width] };
    for (row, found) in read(&bench, element, add_norm.output).chunks_exact(width).enumerate() {
        let mut sums = input.row(row as u32, width);
        if has_residual {
            sums.iter_mut().zip(residual.row(row as u32, width)).for_each(|(sum, other)| *sum += other);
        }
        let expected = reference::normalize(kind, &sums, &gain, &shift, 1e-12);
        close(&format!("width {width}, {case:?}, row {row}"), element, found, &expected, 0.0);
    }
}

#[test]
fn follows_the_reference_for_every_width_class_and_kind_with_and_without_a_residual_and_a_shift() {
    for (seed, width) in (0..).zip([8, 248, 256, 264, 384, 768, 1024, 1032, 2048]) {
        for case in CASES {
            follows(6, width, case, seed);
        }
    }
}

#[test]
fn follows_the_reference_at_any_shape_with_every_schedule() {
    for (seed, mut shapes) in Shapes::of_each_schedule() {
        let rows = shapes.up_to(9);
        for (width, case) in shapes.of_each_class().zip(CASES) {
            follows(rows, width, case, seed);
        }
    }
}

#[test]
fn a_row_may_be_written_over_what_it_is_made_of() {
    let (rows, width, element) = (5, 264, Element::Bf16);
    let [input, residual] = [1.3, 0.4].map(|phase| Numbers::wave(element, rows * width, phase));
    let [gain, shift] = gain_and_shift(width);
    let run = |place: fn(&AddNorm) -> Span| {
        let mut bench = Bench::new(1);
        let norm =
            Norm { kind: NormKind::Layer, gain: bench.put(&gain), shift: Some(bench.put(&shift)), epsilon: 1e-5 };
        let apart = AddNorm {
            rows,
            width,
            element,
            input: input.put(&mut bench),
            residual: Some(residual.put(&mut bench)),
            norm,
            output: room(&mut bench, element, rows * width),
        };
        let add_norm = AddNorm { output: place(&apart), ..apart };
        bench.run(add_norm.command()).unwrap_or_else(|fault| panic!("{fault}"));
        read(&bench, element, add_norm.output)
    };
    let apart = run(|add_norm| add_norm.output);
    assert_eq!(run(|add_norm| add_norm.input), apart);
    assert_eq!(run(|add_norm| add_norm.residual.unwrap()), apart);
}

#[test]
fn there_is_a_kernel_for_multiples_of_8_up_to_2048() {
    assert!([8, 256, 2048].into_iter().all(|width| AddNorm::kernel(width).is_some()));
    assert!([0, 12, 2056].into_iter().all(|width| AddNorm::kernel(width).is_none()));
}
