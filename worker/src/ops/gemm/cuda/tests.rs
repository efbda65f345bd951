use std::convert::Infallible;

use super::*;
use crate::cuda::bench::Bench;
use crate::cuda::element::Element;
use crate::ops::activate::reference::activate;
use crate::ops::emulation::{Numbers, Shapes, close, read, room};
use crate::ops::gemm::bytes::quantise_row;

/// Rows of bytes with what makes them numbers again.
#[derive(Clone, Debug, PartialEq)]
struct Bytes {
    bytes: Vec<u8>,
    ranges: Vec<f32>,
}

/// What the kernel makes of rows.
fn quantised(input: &Numbers, width: usize, factors: Option<&[f32]>, seed: u64) -> Bytes {
    let rows = input.values.len() / width;
    let mut bench = Bench::new(seed);
    let quantise = Quantise {
        rows,
        width,
        input: input.put(&mut bench),
        factors: factors.map(|factors| bench.put(factors)),
        bytes: bench.room::<u8>(rows * stride(width)),
        ranges: bench.room::<f32>(2 * rows),
    };
    bench.run(quantise.command()).unwrap_or_else(|fault| panic!("{fault}"));
    Bytes { bytes: bench.read(quantise.bytes), ranges: bench.read(quantise.ranges) }
}

/// What the specification does.
fn by_reference(input: &Numbers, width: usize, factors: Option<&[f32]>) -> Bytes {
    let mut expected = Bytes { bytes: Vec::new(), ranges: Vec::new() };
    for row in input.values.chunks_exact(width) {
        let factor = |column: usize| factors.map_or(1.0, |factors| factors[column]);
        let row: Vec<f32> = row.iter().enumerate().map(|(column, x)| x * factor(column)).collect();
        let mut bytes = vec![0; stride(width)];
        expected.ranges.extend(quantise_row(&row, |place, byte| bytes[place] = byte));
        expected.bytes.extend(bytes);
    }
    expected
}

/// From 0.3 to 3.
fn factors(width: usize) -> Vec<f32> {
    (0..width).map(|column| 0.3 + (column * 7 % 28) as f32 / 10.0).collect()
}

#[test]
fn rows_become_the_bytes_of_the_reference_at_any_shape_with_every_schedule() {
    for (seed, mut shapes) in Shapes::of_each_schedule() {
        let drawn = [(); 4].map(|()| (shapes.up_to(9), 8 * shapes.up_to(130)));
        for (rows, width) in drawn.into_iter().chain([(1, 8), (5, 16), (4, 256), (3, 264)]) {
            let input = Numbers::wave(Element::Bf16, rows * width, 0.4);
            for factors in [None, Some(&factors(width)[..])] {
                let (found, expected) = (quantised(&input, width, factors, seed), by_reference(&input, width, factors));
                assert_eq!(found, expected, "{rows} x {width}, factors {}", factors.is_some());
            }
        }
    }
}

#[test]
fn rows_of_equal_numbers_have_a_range_and_come_back() {
    for value in [0.0, -1.5, 1e30] {
        let input = Numbers::new(Element::Bf16, [value; 2 * 40]);
        let Bytes { bytes, ranges } = quantised(&input, 40, None, 0);
        let back = f32::from(bytes[0]) * ranges[0] + ranges[1];
        assert!((back - input.values[0]).abs() <= 1e-6 * value.abs(), "{value} became {back}");
    }
}

#[test]
fn what_is_no_number_is_not_lost_to_bytes() {
    for (seed, nothing) in (0..).zip([f32::NAN, f32::INFINITY, f32::NEG_INFINITY]) {
        for (width, at) in [(40, 3), (40, 39), (512, 300)] {
            let values = (0..2 * width).map(|index| if index == at { nothing } else { 1.0 });
            let input = Numbers::new(Element::Bf16, values);
            let Bytes { ranges, .. } = quantised(&input, width, None, seed);
            assert!(
                !ranges[0].is_finite() && ranges[2..].iter().all(|x| x.is_finite()),
                "{nothing} at {at}: {ranges:?}"
            );
        }
    }
}

/// A product of rows and a weight, as they are and as bytes.
struct Case {
    rows: usize,
    outputs: usize,
    inputs: usize,
    left: Bytes,
    weight: Int8Weight,
    right: Vec<u8>,
    bias: Vec<f32>,
    residual: Numbers,
}

/// What is done to sums.
#[derive(Clone, Copy, Debug)]
struct Then {
    activation: Activation,
    has_bias: bool,
    /// None, apart from the output, or the output itself.
    residual: Option<bool>,
}

impl Then {
    const PLAIN: Self = Self { activation: Activation::Identity, has_bias: false, residual: None };
}

impl Case {
    fn new(rows: usize, outputs: usize, inputs: usize) -> Self {
        let wave = |count: usize, phase: f32| Numbers::wave(Element::Bf16, count, phase);
        let input = wave(rows * inputs, 0.7);
        let weight = Int8Weight { outputs, inputs, has_factors: true };
        let numbers = Numbers::wave_of(Element::Bf16, outputs * inputs, 0.1, 0.1).values;
        let mut right = vec![0xff; weight.bytes()];
        let row = |index: usize, to: &mut [f32]| {
            to.copy_from_slice(&numbers[index * inputs..][..inputs]);
            Ok::<_, Infallible>(())
        };
        let Ok(()) = weight.write(Some(&factors(inputs)), row, &mut right);
        let inverse: Vec<f32> = factors(inputs).iter().map(|factor| factor.recip()).collect();
        Self {
            rows,
            outputs,
            inputs,
            left: by_reference(&input, inputs, Some(&inverse)),
            weight,
            right,
            bias: wave(outputs, 0.3).values,
            residual: wave(rows * outputs, 0.9),
        }
    }

    fn run(&self, tile: usize, then: Then, seed: u64) -> Result<Vec<f32>, String> {
        let mut bench = Bench::new(seed);
        let right = bench.put(&self.right);
        let output = room(&mut bench, Element::Bf16, self.rows * self.outputs);
        let residual = then.residual.map(|_| self.residual.put(&mut bench));
        let multiply = MultiplyInt8 {
            rows: self.rows,
            outputs: self.outputs,
            inputs: self.inputs,
            left: bench.put(&self.left.bytes),
            ranges: bench.put(&self.left.ranges),
            right: right.part(self.weight.matrix()),
            columns: right.part(self.weight.columns()),
            bias: then.has_bias.then(|| bench.put(&self.bias)),
            activation: then.activation,
            residual,
            output: residual.filter(|_| then.residual == Some(true)).unwrap_or(output),
        };
        bench.run(multiply.command_by(tile))?;
        Ok(read(&bench, Element::Bf16, multiply.output))
    }

    /// By the definition, from the bytes: sums of integers.
    fn reference(&self, then: Then) -> Vec<f64> {
        let stride = stride(self.inputs);
        let floats = |range: Range<usize>| -> Vec<f64> {
            let bytes = self.right[range].as_chunks::<4>().0;
            bytes.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
        };
        let columns = floats(self.weight.columns());
        let mut expected = Vec::new();
        for (row, left) in self.left.bytes.chunks_exact(stride).enumerate() {
            let [scale, minimum] = [0, 1].map(|at| f64::from(self.left.ranges[2 * row + at]));
            for (column, right) in self.right[self.weight.matrix()].chunks_exact(stride).enumerate() {
                let product = |(q, v): (&u8, &u8)| i32::from(*q) * i32::from(v.cast_signed());
                let sum: i32 = left.iter().zip(right).map(product).sum();
                let bias = if then.has_bias { f64::from(self.bias[column]) } else { 0.0 };
                let x = columns[column] * scale * f64::from(sum) + minimum * columns[self.outputs + column] + bias;
                let more = f64::from(self.residual.values[row * self.outputs + column]);
                expected.push(activate(x, then.activation) + if then.residual.is_some() { more } else { 0.0 });
            }
        }
        expected
    }
}

/// By every tile alike, and as the reference has it.
fn follows(case: &Case, then: Then, seed: u64) {
    let Case { rows, outputs, inputs, .. } = *case;
    let what = format!("[{rows}, {inputs}] x [{outputs}, {inputs}], {then:?}");
    let run = |tile| case.run(tile, then, seed).unwrap_or_else(|fault| panic!("{what}: {fault}"));
    let all: Vec<_> = (0..MultiplyInt8::TILES).map(run).collect();
    close(&what, Element::Bf16, &all[0], &case.reference(then), 0.0);
    assert!(all[1..].iter().all(|found| *found == all[0]), "{what}: tiles differ");
}

#[test]
fn follows_the_reference_at_any_shape_with_every_schedule_and_tile() {
    for (seed, mut shapes) in Shapes::of_each_schedule() {
        for activation in Activation::ALL {
            let case = Case::new(shapes.up_to(150), 8 * shapes.up_to(20), 8 * shapes.up_to(40));
            let residual = [None, Some(false), Some(true)][shapes.up_to(3) - 1];
            follows(&case, Then { activation, has_bias: shapes.up_to(2) == 1, residual }, seed);
        }
    }
}

#[test]
fn follows_the_reference_at_the_edges_of_tiles_and_stages() {
    let shapes =
        [(1, 8, 8), (32, 32, 64), (33, 40, 72), (64, 64, 128), (65, 72, 200), (128, 128, 256), (129, 136, 264)];
    for (seed, (rows, outputs, inputs)) in (0..).zip(shapes) {
        let case = Case::new(rows, outputs, inputs);
        follows(&case, Then::PLAIN, seed);
        follows(&case, Then { has_bias: true, residual: Some(true), ..Then::PLAIN }, seed);
    }
}

#[test]
fn the_largest_bytes_are_summed_exactly() {
    // Each product is 255 · ±127, and what is left of their sum beside the bias is a small number.
    let mut case = Case::new(2, 8, 512);
    case.left.bytes.fill(255);
    case.left.ranges = vec![1.0, 0.0, 1.0, 0.0];
    let matrix = case.weight.matrix();
    for (index, row) in case.right[matrix].chunks_exact_mut(512).enumerate() {
        row.fill(if index.is_multiple_of(2) { 127 } else { (-127_i8).cast_unsigned() });
        row[0] = index as u8;
    }
    let columns = case.weight.columns();
    let scales = [1.0_f32; 8].into_iter().chain([0.0; 8]);
    case.right[columns].as_chunks_mut::<4>().0.iter_mut().zip(scales).for_each(|(to, x)| *to = x.to_le_bytes());
    // Whole numbers below 2^24.
    let sum = |index: i32| 255 * (511 * if index % 2 == 0 { 127 } else { -127 } + index);
    case.bias = (0..8).map(|index| (index - sum(index)) as f32).collect();
    for tile in 0..MultiplyInt8::TILES {
        let found = case.run(tile, Then { has_bias: true, ..Then::PLAIN }, 0).unwrap();
        assert_eq!(found, (0..16).map(|at| (at % 8) as f32).collect::<Vec<_>>(), "tile {tile}");
    }
}

#[test]
fn a_row_of_no_number_has_results_that_are_none_and_the_others_have_theirs() {
    let mut case = Case::new(3, 16, 48);
    let right = case.run(2, Then::PLAIN, 0).unwrap();
    case.left.ranges[2] = f32::NAN;
    let found = case.run(2, Then::PLAIN, 0).unwrap();
    assert!(found[16..32].iter().all(|x| x.is_nan()), "{found:?}");
    assert_eq!((&found[..16], &found[32..]), (&right[..16], &right[32..]));
}

#[test]
fn few_rows_are_cut_into_more_blocks() {
    let side = |rows, outputs| Tile::of(rows, outputs).side;
    assert_eq!([side(32, 384), side(16, 3072), side(1, 8)], [32; 3]);
    assert_eq!([side(1024, 768), side(512, 1536)], [64; 2]);
    assert_eq!([side(16_384, 384), side(4096, 768)], [128; 2]);
}

#[test]
fn a_weight_lies_in_one_piece_and_comes_back() {
    let weight = Int8Weight { outputs: 3, inputs: 24, has_factors: true };
    assert_eq!((weight.matrix(), weight.columns()), (0..96, 96..120));
    assert_eq!((weight.factors(), weight.bytes()), (Some(120..216), 216));
    let plain = Int8Weight { has_factors: false, ..weight };
    assert_eq!((plain.factors(), plain.bytes()), (None, 120));
    let numbers = |row: usize| (0..24).map(move |column| (row + 1) as f32 * (column as f32 - 11.5));
    let by = factors(24);
    let mut bytes = vec![0xff; weight.bytes()];
    let row = |index: usize, to: &mut [f32]| {
        to.iter_mut().zip(numbers(index)).for_each(|(to, x)| *to = x);
        Ok::<_, Infallible>(())
    };
    let Ok(()) = weight.write(Some(&by), row, &mut bytes);
    let float = |at: usize| f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    for row in 0..3 {
        let scale = float(96 + 4 * row);
        let stored = |column: usize| f32::from(bytes[row * 32 + column].cast_signed());
        for (column, (x, by)) in numbers(row).zip(&by).enumerate() {
            assert!((stored(column) * scale - x * by).abs() <= 0.501 * scale, "row {row}, column {column}");
            assert_eq!(float(120 + 4 * column), by.recip());
        }
        let sum: f32 = (0..24).map(stored).sum();
        assert!((float(96 + 12 + 4 * row) - scale * sum).abs() <= 1e-4 * scale, "row {row}");
        assert!(bytes[row * 32 + 24..][..8].iter().all(|byte| *byte == 0));
    }
}
