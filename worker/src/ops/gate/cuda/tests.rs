use super::*;
use crate::cuda::bench::Bench;
use crate::ops::emulation::{Numbers, Shapes, close, read, room};
use crate::ops::gate::reference;

/// Runs the kernels and holds each row to the reference.
fn follows(activation: Activation, rows: usize, width: usize, seed: u64) {
    Element::ALL.into_iter().for_each(|element| follows_in(element, activation, rows, width, seed));
}

fn follows_in(element: Element, activation: Activation, rows: usize, width: usize, seed: u64) {
    // Both tails.
    let input = Numbers::wave_of(element, rows * 2 * width, 0.5, 6.0);
    let mut bench = Bench::new(seed);
    let gate = Gate {
        rows,
        width,
        element,
        activation,
        input: input.put(&mut bench),
        output: room(&mut bench, element, rows * width),
    };
    bench.run(gate.command()).unwrap_or_else(|fault| panic!("{fault}"));
    for (row, found) in read(&bench, element, gate.output).chunks_exact(width).enumerate() {
        let expected = reference::gate(&input.row(row as u32, 2 * width), activation);
        close(&format!("{activation:?}, {rows} x {width}, row {row}"), element, found, &expected, 0.0);
    }
}

#[test]
fn follows_the_reference_for_every_activation_and_width() {
    for (seed, activation) in (0..).zip(Activation::ALL) {
        // Less than a block and more, with rows that end anywhere in one.
        for (rows, width) in [(1, 8), (7, 24), (3, 1152), (2, 2048)] {
            follows(activation, rows, width, seed);
        }
    }
}

#[test]
fn follows_the_reference_at_any_shape_with_every_schedule() {
    for (seed, mut shapes) in Shapes::of_each_schedule() {
        for activation in Activation::ALL {
            follows(activation, shapes.up_to(9), 8 * shapes.up_to(100), seed);
        }
    }
}

#[test]
fn there_is_a_kernel_for_multiples_of_8() {
    assert!([8, 3072, 2624].into_iter().all(Gate::takes));
    assert!([4, 12, 3071].into_iter().all(|width| !Gate::takes(width)));
}
