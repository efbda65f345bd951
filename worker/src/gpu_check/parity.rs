//! Each op on random numbers and shapes, against its reference loop.

use half::bf16;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{CheckError, GpuCheck, say};
use crate::cuda::bench::Bench;
use crate::cuda::driver::{Element, Epilogue, Product};
use crate::cuda::queue::Command;
use crate::ops::activate::cuda::Activate;
use crate::ops::activate::reference::activate;
use crate::ops::attend::cuda::{Attend, tiles};
use crate::ops::attend::reference::attend;
use crate::ops::embed::cuda::Embed;
use crate::ops::embed::reference::embed;
use crate::ops::normalize::cuda::AddNorm;
use crate::ops::normalize::reference::normalize;
use crate::ops::pick::cuda::Pick;
use crate::ops::pool::cuda::Pool;
use crate::ops::pool::reference::pool;
use crate::plan::{Activation, Pooling};

/// How far one op is from its reference.
#[derive(Clone, Debug)]
pub struct Parity {
    /// Such as `attend`.
    pub op: &'static str,
    /// Its shape, for people.
    pub case: String,
    /// ‖found - expected‖ / ‖expected‖; not a number if anything was not written.
    pub apart: f64,
}

/// Random numbers as kernels have them, and what they are.
struct Numbers {
    narrow: Vec<bf16>,
    wide: Vec<f64>,
}

impl GpuCheck {
    /// Every op on fresh numbers, over every class of shapes that has code of its own.
    ///
    /// # Errors
    /// When a kernel does not run.
    pub fn ops(&self) -> Result<Vec<Parity>, CheckError> {
        let mut draw = Draw { random: StdRng::seed_from_u64(self.seed), check: self, found: Vec::new() };
        for width in [8, 256, 384, 512, 768, 1024, 2048] {
            draw.norms(width)?;
        }
        for head in [32, 64] {
            for lengths in [&[1, 17, 63, 64, 65][..], &[128, 200, 3], &[257]] {
                draw.attention(head, lengths)?;
            }
        }
        for activation in [Activation::Gelu, Activation::Silu, Activation::Tanh, Activation::Relu, Activation::GeluTanh]
        {
            draw.activation(activation)?;
        }
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Max] {
            draw.pooling(pooling)?;
        }
        draw.pick()?;
        let products: &[_] = if self.is_emulated {
            &[(3, 32, 64), (65, 24, 8)]
        } else {
            &[(1, 384, 384), (32, 1536, 384), (1000, 1152, 384), (513, 3072, 768), (77, 30_522, 768), (3, 2, 384)]
        };
        for &(rows, outputs, inputs) in products {
            for into in [Element::Bf16, Element::F32] {
                for epilogue in [Epilogue::Identity, Epilogue::Relu, Epilogue::GeluTanh] {
                    draw.product((rows, outputs, inputs), epilogue, into)?;
                }
            }
        }
        Ok(draw.found)
    }
}

/// Draws numbers, runs ops on them, and notes how far they are off.
struct Draw<'a> {
    random: StdRng,
    check: &'a GpuCheck,
    found: Vec<Parity>,
}

impl Draw<'_> {
    fn bench(&self) -> Result<Bench, CheckError> {
        Ok(Bench::on(&self.check.driver)?)
    }

    fn numbers(&mut self, count: usize) -> Numbers {
        let narrow: Vec<_> = (0..count).map(|_| bf16::from_f32(self.random.random_range(-1.0..1.0f32))).collect();
        let wide = narrow.iter().map(|x| x.to_f64()).collect();
        Numbers { narrow, wide }
    }

    fn vector(&mut self, width: usize, centre: f32) -> Vec<f32> {
        (0..width).map(|_| centre + self.random.random_range(-0.3..0.3f32)).collect()
    }

    fn note(&mut self, op: &'static str, case: String, found: impl Iterator<Item = f64>, expected: &[f64]) {
        let (mut off, mut all, mut count) = (0.0, 0.0, 0);
        for (found, expected) in found.zip(expected) {
            off += (found - expected).powi(2);
            all += expected.powi(2);
            count += 1;
        }
        let apart = if count == expected.len() { (off / all).sqrt() } else { f64::NAN };
        self.found.push(Parity { op, case, apart });
    }

    fn norms(&mut self, width: usize) -> Result<(), CheckError> {
        let (rows, epsilon) = (37, 1e-5);
        let (input, residual) = (self.numbers(rows * width), self.numbers(rows * width));
        let (gain, shift) = (self.vector(width, 1.0), self.vector(width, 0.0));
        let mut bench = self.bench()?;
        let add_norm = AddNorm {
            rows,
            width,
            input: bench.put(&input.narrow),
            residual: Some(bench.put(&residual.narrow)),
            gain: bench.put(&gain),
            shift: bench.put(&shift),
            epsilon,
            output: bench.room::<bf16>(rows * width),
        };
        bench.run(add_norm.command()).map_err(say)?;
        let sums: Vec<f64> = input.wide.iter().zip(&residual.wide).map(|(x, y)| x + y).collect();
        let expected: Vec<f64> =
            sums.chunks_exact(width).flat_map(|row| normalize(row, &gain, &shift, epsilon)).collect();
        let found = bench.read::<bf16>(add_norm.output);
        self.note("add-norm", format!("{rows} x {width}"), found.iter().map(|x| x.to_f64()), &expected);

        let [words, positions, kinds] = [50, 20, 2].map(|count| self.numbers(count * width));
        let mut below = |end: u32| -> Vec<u32> { (0..rows).map(|_| self.random.random_range(0..end)).collect() };
        let (ids, places, types) = (below(50), below(20), below(2));
        let mut bench = self.bench()?;
        let tokens = Embed {
            tokens: rows,
            width,
            ids: bench.put(&ids),
            places: bench.put(&places),
            types: Some(bench.put(&types)),
            words: bench.put(&words.narrow),
            positions: bench.put(&positions.narrow),
            kinds: Some(bench.put(&kinds.narrow)),
            gain: bench.put(&gain),
            shift: bench.put(&shift),
            epsilon,
            output: bench.room::<bf16>(rows * width),
        };
        bench.run(tokens.command()).map_err(say)?;
        let row = |table: &Numbers, row: u32| table.wide[row as usize * width..][..width].to_vec();
        let expected: Vec<f64> = (0..rows)
            .flat_map(|token| {
                let rows = [row(&words, ids[token]), row(&positions, places[token]), row(&kinds, types[token])];
                embed(&[&rows[0], &rows[1], &rows[2]], &gain, &shift, epsilon)
            })
            .collect();
        let found = bench.read::<bf16>(tokens.output);
        self.note("embed", format!("{rows} x {width}"), found.iter().map(|x| x.to_f64()), &expected);
        Ok(())
    }

    fn attention(&mut self, head: usize, lengths: &[usize]) -> Result<(), CheckError> {
        let (heads, scale) = (3, 2.0 / (head as f32).sqrt());
        let mut splits = vec![0];
        lengths.iter().for_each(|length| splits.push(splits[splits.len() - 1] + length));
        let (tokens, width) = (splits[splits.len() - 1], heads * head);
        let qkv = self.numbers(tokens * 3 * width);
        let list: Vec<u32> = tiles(&splits).flatten().collect();
        let mut bench = self.bench()?;
        let attention = Attend {
            heads,
            head,
            scale,
            qkv: bench.put(&qkv.narrow),
            tiles: list.len() / 3,
            list: bench.put(&list),
            output: bench.room::<bf16>(tokens * width),
        };
        bench.run(attention.command()).map_err(say)?;
        let row = |token: usize| &qkv.wide[token * 3 * width..][..3 * width];
        let to_base_2 = f64::from(scale) * std::f64::consts::LOG2_E;
        let mut expected = Vec::with_capacity(tokens * width);
        for pair in splits.windows(2) {
            for token in pair[0]..pair[1] {
                for at in (0..width).step_by(head) {
                    let q: Vec<f64> = row(token)[at..at + head].iter().map(|x| x * to_base_2).collect();
                    let part = |offset: usize| (pair[0]..pair[1]).map(move |token| &row(token)[offset + at..][..head]);
                    expected.extend(attend(&q, part(width), part(2 * width)));
                }
            }
        }
        let found = bench.read::<bf16>(attention.output);
        let case = format!("heads of {head}, lengths {lengths:?}");
        self.note("attend", case, found.iter().map(|x| x.to_f64()), &expected);
        Ok(())
    }

    fn activation(&mut self, activation: Activation) -> Result<(), CheckError> {
        let (rows, width) = (9, 1000);
        let (matrix, bias) = (self.numbers(rows * width), self.numbers(width));
        let mut bench = self.bench()?;
        let (at, shift) = (bench.put(&matrix.narrow), bench.put(&bias.narrow));
        bench.run(Activate { rows, width, matrix: at, bias: Some(shift), activation }.command()).map_err(say)?;
        let sum = |(index, x): (usize, &f64)| activate(x + bias.wide[index % width], activation);
        let expected: Vec<f64> = matrix.wide.iter().enumerate().map(sum).collect();
        let found = bench.read::<bf16>(at);
        let case = format!("{activation:?}, {rows} x {width}");
        self.note("activate", case, found.iter().map(|x| x.to_f64()), &expected);
        Ok(())
    }

    fn pooling(&mut self, pooling: Pooling) -> Result<(), CheckError> {
        let (width, splits) = (768, [0_u32, 1, 5, 90]);
        let input = self.numbers(90 * width);
        let mut bench = self.bench()?;
        let pooled = Pool {
            sequences: 3,
            width,
            pooling,
            input: bench.put(&input.narrow),
            splits: bench.put(&splits),
            output: bench.room::<f32>(3 * width),
            into: Element::F32,
        };
        bench.run(pooled.command()).map_err(say)?;
        let rows: Vec<Vec<f64>> = input.wide.chunks_exact(width).map(<[f64]>::to_vec).collect();
        let of = |pair: &[u32]| pool(&rows[pair[0] as usize..pair[1] as usize], pooling);
        let expected: Vec<f64> = splits.windows(2).flat_map(of).collect();
        let found = bench.read::<f32>(pooled.output);
        self.note("pool", format!("{pooling:?}, {width} wide"), found.iter().map(|x| f64::from(*x)), &expected);
        Ok(())
    }

    fn pick(&mut self) -> Result<(), CheckError> {
        let (width, marks) = (768, [0_u32, 7, 8, 19]);
        let input = self.numbers(20 * width);
        let mut bench = self.bench()?;
        let picked = Pick {
            marks: marks.len(),
            width,
            input: bench.put(&input.narrow),
            list: bench.put(&marks),
            output: bench.room::<bf16>(marks.len() * width),
        };
        bench.run(picked.command()).map_err(say)?;
        let expected: Vec<f64> =
            marks.iter().flat_map(|mark| input.wide[*mark as usize * width..][..width].to_vec()).collect();
        let found = bench.read::<bf16>(picked.output);
        self.note("pick", format!("{} of 20 x {width}", marks.len()), found.iter().map(|x| x.to_f64()), &expected);
        Ok(())
    }

    fn product(
        &mut self,
        (rows, outputs, inputs): (usize, usize, usize),
        epilogue: Epilogue,
        into: Element,
    ) -> Result<(), CheckError> {
        let (input, weight) = (self.numbers(rows * inputs), self.numbers(outputs * inputs));
        let bias = self.numbers(outputs);
        let mut bench = self.bench()?;
        let product = Product {
            rows,
            outputs,
            inputs,
            input: bench.put(&input.narrow),
            weight: bench.put(&weight.narrow),
            bias: Some(match into {
                Element::Bf16 => bench.put(&bias.narrow),
                Element::F32 => bench.put(&bias.wide.iter().map(|x| *x as f32).collect::<Vec<_>>()),
            }),
            epilogue,
            output: bench.room::<u8>(rows * outputs * into.bytes()),
            into,
        };
        bench.run(Command::Multiply(product)).map_err(say)?;
        let activation = match epilogue {
            Epilogue::Identity => Activation::Identity,
            Epilogue::Relu => Activation::Relu,
            Epilogue::GeluTanh => Activation::GeluTanh,
        };
        let mut expected = Vec::with_capacity(rows * outputs);
        for row in input.wide.chunks_exact(inputs) {
            for (weight, bias) in weight.wide.chunks_exact(inputs).zip(&bias.wide) {
                let sum: f64 = row.iter().zip(weight).map(|(x, w)| x * w).sum();
                expected.push(activate(sum + bias, activation));
            }
        }
        let found: Vec<f64> = match into {
            Element::Bf16 => bench.read::<bf16>(product.output).iter().map(|x| x.to_f64()).collect(),
            Element::F32 => bench.read::<f32>(product.output).iter().map(|x| f64::from(*x)).collect(),
        };
        let case = format!("[{rows}, {inputs}] x [{outputs}, {inputs}], {epilogue:?}, into {into:?}");
        self.note("gemm", case, found.into_iter(), &expected);
        Ok(())
    }
}
