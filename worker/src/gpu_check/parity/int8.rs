//! Rows as bytes, and products of them.

use std::convert::Infallible;

use super::{Compared, Draw, Parity, read};
use crate::cuda::element::Element;
use crate::gpu_check::{GpuCheck, say};
use crate::ops::activate::reference::activate;
use crate::ops::gemm::bytes::quantise_row;
use crate::ops::gemm::cuda::{Int8Weight, MultiplyInt8, Quantise, stride};
use crate::plan::Activation;

/// Bytes are exact, but for one here and there that is rounded the other way: cut off instead of rounded they would be ten
/// times as far off.
const BYTES_APART_MAX: f64 = 1e-3;
/// Sums of bytes are exact, and rounded to bfloat16 once.
const PRODUCT_APART_MAX: f64 = 5e-3;

/// A weight as bytes, and what they stand for.
struct Weight {
    int8: Int8Weight,
    bytes: Vec<u8>,
    factors: Vec<f32>,
}

impl GpuCheck {
    /// Rows as bytes with and without factors, and products of them by every tile, with each activation.
    #[must_use]
    pub fn int8(&self) -> Vec<Parity> {
        let mut draw = Draw::new(self, Element::Bf16);
        for width in [8, 384, 520, 3072] {
            for has_factors in [false, true] {
                let case = format!("37 x {width}, factors {has_factors}");
                draw.note_within(BYTES_APART_MAX, "quantise", case, |draw| draw.rows_of_bytes(37, width, has_factors));
            }
        }
        let products: &[_] = if self.is_emulated {
            &[(3, 32, 64), (65, 24, 72)]
        } else {
            &[(1, 384, 384), (32, 1536, 384), (129, 3072, 768), (1000, 1152, 384), (77, 200, 1160)]
        };
        for &(rows, outputs, inputs) in products {
            draw.products_of_bytes(rows, outputs, inputs);
        }
        draw.found
    }
}

impl Draw<'_> {
    fn rows_of_bytes(
        &mut self,
        rows: usize,
        width: usize,
        has_factors: bool,
    ) -> Result<Compared, crate::gpu_check::CheckError> {
        let (input, factors) = (self.numbers(rows * width), self.vector(width, 1.0));
        let mut bench = self.bench();
        let quantise = Quantise {
            rows,
            width,
            input: input.put(&mut bench),
            factors: has_factors.then(|| bench.put(&factors)),
            bytes: bench.room::<u8>(rows * stride(width)),
            ranges: bench.room::<f32>(2 * rows),
        };
        bench.run(quantise.command()).map_err(say)?;
        let (bytes, ranges) = (bench.read::<u8>(quantise.bytes), bench.read::<f32>(quantise.ranges));
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        let each = bytes.chunks_exact(stride(width)).zip(ranges.as_chunks::<2>().0);
        for ((bytes, [scale, minimum]), row) in each.zip(input.wide.chunks_exact(width)) {
            let number = |byte: u8, scale: f32, minimum: f32| f64::from(byte) * f64::from(scale) + f64::from(minimum);
            found.extend(bytes[..width].iter().map(|byte| number(*byte, *scale, *minimum)));
            let factor = |column: usize| if has_factors { factors[column] } else { 1.0 };
            let row: Vec<f32> = row.iter().enumerate().map(|(column, x)| *x as f32 * factor(column)).collect();
            let mut bytes = vec![0; width];
            let [scale, minimum] = quantise_row(&row, |place, byte| bytes[place] = byte);
            expected.extend(bytes.iter().map(|byte| number(*byte, scale, minimum)));
        }
        Ok(Compared { found, expected })
    }

    /// One shape with all that may be done to its sums, which are computed once.
    fn products_of_bytes(&mut self, rows: usize, outputs: usize, inputs: usize) {
        let weight = self.weight_of_bytes(outputs, inputs);
        let (bias, more) = (self.vector(outputs, 0.0), self.numbers(rows * outputs));
        let width = stride(inputs);
        let (mut left, mut ranges) = (vec![0; rows * width], Vec::new());
        for (row, to) in self.numbers(rows * inputs).wide.chunks_exact(inputs).zip(left.chunks_exact_mut(width)) {
            let row: Vec<f32> = row.iter().zip(&weight.factors).map(|(x, factor)| *x as f32 / factor).collect();
            ranges.extend(quantise_row(&row, |place, byte| to[place] = byte));
        }
        let columns: Vec<f32> =
            weight.bytes[weight.int8.columns()].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let mut sums = Vec::with_capacity(rows * outputs);
        for (left, range) in left.chunks_exact(width).zip(ranges.as_chunks::<2>().0) {
            for (column, right) in weight.bytes[weight.int8.matrix()].chunks_exact(width).enumerate() {
                let product = |(q, v): (&u8, &u8)| i32::from(*q) * i32::from(v.cast_signed());
                let sum: i32 = left.iter().zip(right).map(product).sum();
                let [scale, minimum] = range.map(f64::from);
                let [c, offset] = [columns[column], columns[outputs + column]].map(f64::from);
                sums.push(c * scale * f64::from(sum) + minimum * offset);
            }
        }
        for (activation, has_bias, has_residual) in Activation::ALL
            .into_iter()
            .map(|activation| (activation, true, false))
            .chain([(Activation::Identity, false, true), (Activation::Gelu, true, true)])
        {
            let mut first = None;
            for tile in 0..MultiplyInt8::TILES {
                let case = format!(
                    "[{rows}, {inputs}] x [{outputs}, {inputs}], {activation:?}, bias {has_bias}, residual \
                     {has_residual}, tile {tile}"
                );
                self.note_within(PRODUCT_APART_MAX, "gemm of bytes", case, |draw| {
                    let mut bench = draw.bench();
                    let right = bench.put(&weight.bytes);
                    let residual = has_residual.then(|| more.put(&mut bench));
                    let output = residual.unwrap_or_else(|| draw.room(&mut bench, rows * outputs));
                    let multiply = MultiplyInt8 {
                        rows,
                        outputs,
                        inputs,
                        left: bench.put(&left),
                        ranges: bench.put(&ranges),
                        right: right.part(weight.int8.matrix()),
                        columns: right.part(weight.int8.columns()),
                        bias: has_bias.then(|| bench.put(&bias)),
                        activation,
                        residual,
                        output,
                    };
                    bench.run(multiply.command_by(tile)).map_err(say)?;
                    let finish = |(index, sum): (usize, &f64)| {
                        let shift = if has_bias { f64::from(bias[index % outputs]) } else { 0.0 };
                        activate(sum + shift, activation) + if has_residual { more.wide[index] } else { 0.0 }
                    };
                    let expected = sums.iter().enumerate().map(finish).collect();
                    let found = read(&bench, output, draw.element);
                    if *first.get_or_insert_with(|| found.clone()) != found {
                        return Err(say("other numbers than by the first tile"));
                    }
                    Ok(Compared { found, expected })
                });
            }
        }
    }

    fn weight_of_bytes(&mut self, outputs: usize, inputs: usize) -> Weight {
        let int8 = Int8Weight { outputs, inputs, has_factors: true };
        let (numbers, factors) = (self.numbers(outputs * inputs).wide, self.vector(inputs, 1.0));
        let mut bytes = vec![0; int8.bytes()];
        let row = |index: usize, to: &mut [f32]| {
            to.iter_mut().zip(&numbers[index * inputs..]).for_each(|(to, x)| *to = *x as f32);
            Ok::<_, Infallible>(())
        };
        let Ok(()) = int8.write(Some(&factors), row, &mut bytes);
        Weight { int8, bytes, factors }
    }
}
