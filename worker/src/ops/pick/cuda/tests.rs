use super::*;
use crate::cuda::bench::Bench;
use crate::ops::emulation::{Numbers, Shapes, read, room};
use crate::ops::pick::reference;

/// Runs the kernel and holds it to the reference.
fn follows(marks: &[u32], width: usize, seed: u64) {
    Element::ALL.into_iter().for_each(|element| follows_in(element, marks, width, seed));
}

fn follows_in(element: Element, marks: &[u32], width: usize, seed: u64) {
    let input = Numbers::wave(element, 9 * width, 0.8);
    let mut bench = Bench::new(seed);
    let pick = Pick {
        marks: marks.len(),
        width,
        element,
        input: input.put(&mut bench),
        list: bench.put(marks),
        output: room(&mut bench, element, marks.len() * width),
    };
    bench.run(pick.command()).unwrap_or_else(|fault| panic!("{fault}"));
    let rows: Vec<Vec<f32>> = input.values.chunks_exact(width).map(<[f32]>::to_vec).collect();
    let marks: Vec<usize> = marks.iter().map(|mark| *mark as usize).collect();
    assert_eq!(read(&bench, element, pick.output), reference::pick(&rows, &marks).concat(), "width {width}");
}

#[test]
fn follows_the_reference_for_any_width() {
    for (seed, width) in (0..).zip([8, 384, 512, 520, 1032]) {
        follows(&[0, 3, 4, 8], width, seed);
    }
}

#[test]
fn follows_the_reference_at_any_shape_with_every_schedule() {
    for (seed, mut shapes) in Shapes::of_each_schedule() {
        let marks: Vec<u32> = (0..shapes.up_to(5)).map(|_| shapes.up_to(9) as u32 - 1).collect();
        follows(&marks, 8 * shapes.up_to(200), seed);
    }
}
