//! Matrix products, which are cublasLt's.

use std::collections::BTreeSet;

use super::{Compared, Draw, Parity, read};
use crate::cuda::driver::{Epilogue, Product};
use crate::cuda::element::Element;
use crate::cuda::queue::Command;
use crate::gpu_check::{GpuCheck, say};
use crate::ops::activate::reference::activate;
use crate::plan::Activation;

/// What a product adds a residual from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Residual {
    None,
    Apart,
    /// Where it writes.
    Output,
}

impl GpuCheck {
    /// Matrix products of the shapes that plans have, of each kind of number, into that and f32, with each epilogue.
    #[must_use]
    pub fn products(&self) -> Vec<Parity> {
        let products: &[_] = if self.is_emulated {
            &[(3, 32, 64), (65, 24, 8)]
        } else {
            &[
                (1, 384, 384),
                (32, 1536, 384),
                (1000, 1152, 384),
                (129, 3072, 768),
                (5, 30_522, 768),
                (3, 2, 384),
                (3, 1, 768),
            ]
        };
        let mut found = Vec::new();
        for element in Element::ALL {
            let mut draw = Draw::new(self, element);
            for &(rows, outputs, inputs) in products {
                draw.product_cases(rows, outputs, inputs);
            }
            found.extend(draw.found);
        }
        found
    }
}

impl Draw<'_> {
    /// One shape with all that may be done to its sums, which are computed once.
    pub(super) fn product_cases(&mut self, rows: usize, outputs: usize, inputs: usize) {
        let (input, weight) = (self.numbers(rows * inputs), self.numbers(outputs * inputs));
        let (bias, more) = (self.numbers(outputs), self.numbers(rows * outputs));
        let mut sums = Vec::with_capacity(rows * outputs);
        for row in input.wide.chunks_exact(inputs) {
            for weight in weight.wide.chunks_exact(inputs) {
                sums.push(row.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>());
            }
        }
        let of = self.element;
        for into in BTreeSet::from([of, Element::F32]) {
            for (epilogue, has_bias, residual) in [
                (Epilogue::Identity, false, Residual::None),
                (Epilogue::Identity, true, Residual::None),
                (Epilogue::Relu, true, Residual::None),
                (Epilogue::GeluTanh, true, Residual::None),
                (Epilogue::Identity, false, Residual::Apart),
                (Epilogue::Identity, true, Residual::Output),
                (Epilogue::Identity, false, Residual::Output),
            ] {
                // What is handed out is a plain product, and a few labels never another op's input.
                let is_plain = epilogue == Epilogue::Identity && residual == Residual::None;
                if into != of && !is_plain || into == of && outputs < 8 {
                    continue;
                }
                let case = format!(
                    "[{rows}, {inputs}] x [{outputs}, {inputs}], {epilogue:?}, bias {has_bias}, residual {residual:?}, \
                     into {into:?}"
                );
                self.note("gemm", case, |draw| {
                    let mut bench = draw.bench();
                    let shift = bias.put_as(into, &mut bench);
                    let apart = more.put(&mut bench);
                    let room = bench.room::<u8>(rows * outputs * into.bytes());
                    let product = Product {
                        rows,
                        outputs,
                        inputs,
                        of,
                        input: input.put(&mut bench),
                        weight: weight.put(&mut bench),
                        bias: has_bias.then_some(shift),
                        residual: (residual != Residual::None).then_some(apart),
                        epilogue,
                        output: if residual == Residual::Output { apart } else { room },
                        into,
                    };
                    bench.run(Command::Multiply(product)).map_err(say)?;
                    let activation = match epilogue {
                        Epilogue::Identity => Activation::Identity,
                        Epilogue::Relu => Activation::Relu,
                        Epilogue::GeluTanh => Activation::GeluTanh,
                    };
                    let finish = |(index, sum): (usize, &f64)| {
                        let shift = if has_bias { bias.wide[index % outputs] } else { 0.0 };
                        let more = if residual == Residual::None { 0.0 } else { more.wide[index] };
                        activate(sum + shift + more, activation)
                    };
                    let expected = sums.iter().enumerate().map(finish).collect();
                    Ok(Compared { found: read(&bench, product.output, into), expected })
                });
            }
        }
    }
}
