use super::*;
use crate::cuda::bench::Bench;
use crate::ops::embed::reference;
use crate::ops::emulation::{Numbers, Shapes, close, read, room};
use crate::plan::NormKind;

/// What of an op there is.
#[derive(Clone, Copy, Debug)]
struct Case {
    has_positions: bool,
    has_types: bool,
    kind: Option<NormKind>,
    has_shift: bool,
}

const ALL: Case = Case { has_positions: true, has_types: true, kind: Some(NormKind::Layer), has_shift: true };

/// Runs the kernels and holds each row to the reference.
fn follows(tokens: u32, width: usize, case: Case, seed: u64) {
    Element::ALL.into_iter().for_each(|element| follows_in(element, tokens, width, case, seed));
}

fn follows_in(element: Element, tokens: u32, width: usize, case: Case, seed: u64) {
    let [words, positions, kinds] = [11, 5, 2].map(|count| Numbers::wave(element, count * width, count as f32));
    let ids: Vec<u32> = (0..tokens).map(|row| row * 5 % 11).collect();
    let places: Vec<u32> = (0..tokens).map(|row| row % 5).collect();
    let types: Vec<u32> = (0..tokens).map(|row| row % 2).collect();
    let gain: Vec<f32> = Numbers::wave(Element::F32, width, 0.3).values.iter().map(|x| 1.0 + x / 4.0).collect();
    let shift = Numbers::wave(Element::F32, width, 0.7).values;
    let mut bench = Bench::new(seed);
    let mut norm =
        |kind| Norm { kind, gain: bench.put(&gain), shift: case.has_shift.then(|| bench.put(&shift)), epsilon: 1e-5 };
    let norm = case.kind.map(&mut norm);
    let embed = Embed {
        tokens: tokens as usize,
        width,
        element,
        ids: bench.put(&ids),
        places: bench.put(&places),
        types: case.has_types.then(|| bench.put(&types)),
        words: words.put(&mut bench),
        positions: case.has_positions.then(|| positions.put(&mut bench)),
        kinds: Some(kinds.put(&mut bench)),
        norm,
        output: room(&mut bench, element, tokens as usize * width),
    };
    bench.run(embed.command()).unwrap_or_else(|fault| panic!("{fault}"));
    for (row, found) in read(&bench, element, embed.output).chunks_exact(width).enumerate() {
        let mut rows = vec![words.row(ids[row], width)];
        rows.extend(case.has_positions.then(|| positions.row(places[row], width)));
        rows.push(kinds.row(if case.has_types { types[row] } else { 0 }, width));
        let rows: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
        let shift = if case.has_shift { &shift } else { &vec![0.0; width] };
        let expected = match case.kind {
            Some(kind) => reference::embed(kind, &rows, &gain, shift, 1e-5),
            None => reference::sum(&rows),
        };
        close(&format!("width {width}, {case:?}, row {row}"), element, found, &expected, 0.0);
    }
}

#[test]
fn follows_the_reference_for_every_width_class_and_all_that_may_be_missing() {
    for (seed, width) in (0..).zip([8, 256, 264, 384, 768, 1000, 1024, 2048]) {
        follows(7, width, ALL, seed);
        follows(7, width, Case { has_types: false, ..ALL }, seed);
        follows(7, width, Case { has_positions: false, has_shift: false, ..ALL }, seed);
        follows(7, width, Case { kind: Some(NormKind::Rms), has_shift: false, ..ALL }, seed);
        follows(7, width, Case { has_positions: false, has_types: false, kind: None, ..ALL }, seed);
    }
}

#[test]
fn follows_the_reference_at_any_shape_with_every_schedule() {
    for (seed, mut shapes) in Shapes::of_each_schedule() {
        let tokens = shapes.up_to(9) as u32;
        for width in shapes.of_each_class() {
            follows(tokens, width, Case { has_types: width % 16 == 0, ..ALL }, seed);
        }
    }
}

#[test]
fn an_id_beyond_the_table_is_told() {
    let (mut bench, element) = (Bench::new(0), Element::Bf16);
    let embed = Embed {
        tokens: 1,
        width: 8,
        element,
        ids: bench.put(&[3_u32]),
        places: bench.put(&[0_u32]),
        types: None,
        words: Numbers::new(element, [1.0; 3 * 8]).put(&mut bench),
        positions: None,
        kinds: None,
        norm: None,
        output: room(&mut bench, element, 8),
    };
    let fault = bench.run(embed.command()).unwrap_err();
    assert!(fault.contains("embed_256.bf16") && fault.contains("outside every buffer"), "{fault}");
}
