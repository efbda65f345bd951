use std::ptr::NonNull;

use half::bf16;
use proptest::prelude::*;

use super::cpu::{Left, Then, multiply};
use super::finish::Finish;
use super::pack::Packed;
use super::quantise::quantise;
use super::reference::gemm;
use crate::cpu::avx2::Avx2;
use crate::cpu::avx512::Avx512;
use crate::cpu::dot::{Bf16, F32, Int8};
use crate::cpu::isa::CpuIsa;
use crate::cpu::memory::{Aligned, Plain, Rows};
use crate::cpu::simd::Number;
use crate::plan::Activation;

/// Sizes and numbers of one product.
struct Case {
    rows: usize,
    inputs: usize,
    outputs: usize,
    left: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        let mut state = (rows * 31 + inputs * 17 + outputs) as u64;
        let mut numbers = |count: usize, spread: f32| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                spread * ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
            };
            (0..count).map(|_| next()).collect()
        };
        let (left, weight, bias) = (numbers(rows * inputs, 2.0), numbers(outputs * inputs, 0.5), numbers(outputs, 1.0));
        Self { rows, inputs, outputs, left, weight, bias }
    }

    /// The same with operands rounded to bfloat16.
    fn rounded(mut self) -> Self {
        let round = |values: &mut [f32]| values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        round(&mut self.left);
        round(&mut self.weight);
        self
    }

    fn packed<D: Finish>(&self) -> Packed<D> {
        let row = |row: usize, to: &mut [f32]| -> Result<(), std::convert::Infallible> {
            to.copy_from_slice(&self.weight[row * self.inputs..][..self.inputs]);
            Ok(())
        };
        Packed::new(self.outputs, self.inputs, Some(&self.bias), row).unwrap()
    }

    fn reference(&self, activation: impl Fn(f64) -> f64) -> Vec<f64> {
        gemm(&self.left, &self.weight, &self.bias, activation)
    }

    /// Largest sum of absolute products: what errors are relative to.
    fn scale(&self) -> f64 {
        let absolute = |values: &[f32]| -> Vec<f32> { values.iter().map(|x| x.abs()).collect() };
        gemm(&absolute(&self.left), &absolute(&self.weight), &absolute(&self.bias), |x| x)
            .into_iter()
            .fold(0.0, f64::max)
    }
}

/// Rows with room to the next multiple of 16 columns, filled.
fn matrix<T: Plain + Default>(rows: usize, width: usize, fill: impl Fn(usize, usize) -> T) -> (Aligned<T>, usize) {
    let stride = width.next_multiple_of(32) + 32;
    let mut values = Aligned::zeroed(rows * stride);
    for row in 0..rows {
        for column in 0..width {
            values[row * stride + column] = fill(row, column);
        }
    }
    (values, stride)
}

fn none() -> Rows<()> {
    Rows::new(NonNull::dangling().as_ptr(), 0)
}

/// Multiplies in pieces of rows and panels, checks what fills the rows up, and gives back the numbers.
fn run<D: Finish, N: Number + Plain>(
    case: &Case,
    left: &Left<D>,
    packed: &Packed<D>,
    then: Then,
    piece: usize,
    number: impl Fn(N) -> f32,
) -> Vec<f32> {
    let (mut out, stride) = matrix(case.rows, case.outputs, |_, _| N::default());
    let rows = Rows::new(out.as_mut_ptr(), stride);
    for start in (0..case.rows).step_by(piece) {
        let end = case.rows.min(start + piece);
        for panel in 0..packed.panels() {
            // SAFETY: the caller asks for what the processor has; rows have the room they need.
            unsafe { multiply(left, start..end, packed, panel..panel + 1, then, rows, packed.at(panel)) };
        }
    }
    let mut numbers = Vec::new();
    for row in out.chunks_exact(stride) {
        assert!(row[case.outputs..case.outputs.next_multiple_of(16)].iter().all(|x| number(*x) == 0.0));
        numbers.extend(row[..case.outputs].iter().map(|x| number(*x)));
    }
    numbers
}

fn check(found: &[f32], expected: &[f64], tolerance: impl Fn(f64) -> f64) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= tolerance(*expected), "number {index} is {found}, not {expected}");
    }
}

fn float<D: Finish<Element = f32, Row = ()>>(case: &Case) {
    let packed = case.packed::<D>();
    let (mut left, stride) = matrix(case.rows, case.inputs, |row, column| case.left[row * case.inputs + column]);
    let left = Left::<D> { rows: Rows::new(left.as_mut_ptr(), stride), each: none() };
    let tolerance = case.scale() * 1e-6;
    let whole = run(case, &left, &packed, Then::only(Activation::Identity), case.rows, |x: f32| x);
    check(&whole, &case.reference(|x| x), |_| tolerance);
    for piece in [1, 3, 7] {
        assert_eq!(
            run(case, &left, &packed, Then::only(Activation::Identity), piece, |x: f32| x),
            whole,
            "in pieces of {piece}"
        );
    }
    let relu = run(case, &left, &packed, Then::only(Activation::Relu), 8, |x: f32| x);
    check(&relu, &case.reference(|x| x.max(0.0)), |_| tolerance);
    onto_residuals(case, &left, &packed, tolerance);
}

/// Behind the activation, in pieces of any height.
fn onto_residuals<D: Finish<Row = ()>>(case: &Case, left: &Left<D>, packed: &Packed<D>, tolerance: f64) {
    let of = |row: usize, column: usize| ((row * 31 + column) as f32 * 0.37).sin();
    let (mut residual, stride) = matrix(case.rows, case.outputs, of);
    let residual = Some(Rows::new(residual.as_mut_ptr(), stride));
    for (activation, exact) in [(Activation::Identity, (|x| x) as fn(f64) -> f64), (Activation::Relu, |x| x.max(0.0))] {
        let expected = case.reference(exact).into_iter().enumerate();
        let add = |(at, x)| x + f64::from(of(at / case.outputs, at % case.outputs));
        let expected: Vec<f64> = expected.map(add).collect();
        let then = Then { activation, residual };
        let whole = run(case, left, packed, then, case.rows, |x: f32| x);
        check(&whole, &expected, |_| tolerance + 1e-6);
        assert_eq!(run(case, left, packed, then, 3, |x: f32| x), whole, "in pieces of 3");
    }
}

fn narrow(case: &Case) {
    let packed = case.packed::<Bf16>();
    let (mut left, stride) =
        matrix(case.rows, case.inputs, |row, column| bf16::from_f32(case.left[row * case.inputs + column]));
    let left = Left::<Bf16> { rows: Rows::new(left.as_mut_ptr(), stride), each: none() };
    let tolerance = case.scale() * 2e-6;
    let whole = run(case, &left, &packed, Then::only(Activation::Identity), case.rows, |x: f32| x);
    check(&whole, &case.reference(|x| x), |_| tolerance);
    for piece in [1, 3, 7] {
        assert_eq!(
            run(case, &left, &packed, Then::only(Activation::Identity), piece, |x: f32| x),
            whole,
            "in pieces of {piece}"
        );
    }
    // Rounded to bfloat16, whose numbers are 2^-8 apart.
    let rounded = run(case, &left, &packed, Then::only(Activation::Tanh), 8, bf16::to_f32);
    check(&rounded, &case.reference(f64::tanh), |x| tolerance + 2e-4 + x.abs() / 256.0);
    onto_residuals(case, &left, &packed, tolerance);
}

fn bytes(case: &Case) {
    let packed = case.packed::<Int8>();
    let (mut numbers, stride) = matrix(case.rows, case.inputs, |row, column| case.left[row * case.inputs + column]);
    let (mut quantised, byte_stride) = matrix(case.rows, case.inputs, |_, _| 0u8);
    let mut ranges = vec![[0.0f32; 2]; case.rows];
    let (to, each) = (Rows::new(quantised.as_mut_ptr(), byte_stride), Rows::new(ranges.as_mut_ptr(), 1));
    // SAFETY: the caller asks for what the processor has; rows have the room they need.
    unsafe { quantise(0..case.rows, case.inputs, Rows::new(numbers.as_mut_ptr(), stride), None, to, each) };
    // Each number is at most half a step away.
    for (row, [scale, minimum]) in ranges.iter().enumerate() {
        for column in 0..case.inputs {
            let back = f32::from(quantised[row * byte_stride + column]) * scale + minimum;
            let x = case.left[row * case.inputs + column];
            assert!((back - x).abs() <= 0.501 * scale + 1e-6, "{x} became {back} in steps of {scale}");
        }
    }
    let left = Left::<Int8> { rows: to, each };
    let whole = run(case, &left, &packed, Then::only(Activation::Identity), case.rows, |x: f32| x);
    for piece in [1, 3, 7] {
        assert_eq!(
            run(case, &left, &packed, Then::only(Activation::Identity), piece, |x: f32| x),
            whole,
            "in pieces of {piece}"
        );
    }
    // Half a step of each operand in every product.
    let (step, weight_step) = (4.0 / 255.0 / 2.0, 0.5 / 127.0 / 2.0);
    let bound = case.inputs as f64 * (2.0 * weight_step + 0.5 * step + step * weight_step) + 1e-4;
    check(&whole, &case.reference(|x| x), |_| bound);
    // As a whole the errors cancel: about the square root of their number.
    let error: f64 =
        whole.iter().zip(case.reference(|x| x)).map(|(found, exact)| (f64::from(*found) - exact).powi(2)).sum();
    assert!((error / whole.len() as f64).sqrt() <= 0.02 * (case.inputs as f64).sqrt() + 1e-4);
}

fn all(case: Case) {
    let isa = CpuIsa::detect();
    if isa >= CpuIsa::Avx2 {
        float::<F32<Avx2>>(&case);
    }
    if isa >= CpuIsa::Avx512 {
        float::<F32<Avx512>>(&case);
    }
    if isa >= CpuIsa::Avx512Narrow {
        bytes(&case);
        narrow(&case.rounded());
    } else {
        eprintln!("skipped: bf16 and int8, which {isa} has no instructions for");
    }
}

#[test]
fn products_are_those_of_the_reference_at_every_edge_of_tiles_and_panels() {
    for rows in [1, 7, 8, 9, 17] {
        for inputs in [1, 2, 5, 64] {
            for outputs in [1, 15, 16, 17, 24, 25, 48, 49, 97] {
                all(Case::new(rows, inputs, outputs));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn products_are_those_of_the_reference_at_any_size(rows in 1usize..70, inputs in 1usize..400, outputs in 1usize..200) {
        all(Case::new(rows, inputs, outputs));
    }
}

#[test]
fn what_is_not_a_number_is_not_lost_to_bytes() {
    if CpuIsa::detect() < CpuIsa::Avx512Narrow {
        return eprintln!("skipped: no instructions for int8");
    }
    for (width, at) in [(40, 3), (40, 39), (64, 63)] {
        for nothing in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (mut numbers, stride) = matrix(1, width, |_, column| if column == at { nothing } else { 1.0 });
            let (mut bytes, _) = matrix(1, width, |_, _| 0u8);
            let mut range = [[0.0f32; 2]];
            let (to, ranges) = (Rows::new(bytes.as_mut_ptr(), stride), Rows::new(range.as_mut_ptr(), 1));
            // SAFETY: the processor has the instructions; rows have the room they need.
            unsafe { quantise(0..1, width, Rows::new(numbers.as_mut_ptr(), stride), None, to, ranges) };
            assert!(range[0].iter().any(|x| !x.is_finite()), "{nothing} at {at} of {width}: {range:?}");
        }
    }
}

#[test]
fn a_row_of_equal_numbers_has_a_range() {
    if CpuIsa::detect() < CpuIsa::Avx512Narrow {
        return eprintln!("skipped: no instructions for int8");
    }
    let mut case = Case::new(3, 40, 20);
    case.left[..40].fill(0.0);
    case.left[40..80].fill(-1.5);
    bytes(&case);
}
