//! Each op on random numbers and shapes, against its reference loop.

use half::bf16;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{CheckError, GpuCheck, say};
use crate::cuda::bench::Bench;
use crate::cuda::driver::{Element, Epilogue, Product, Span};
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
use crate::ops::top;
use crate::ops::top::cuda::Top;
use crate::plan::{Activation, NormKind, Pooling};

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
    /// Every kernel of our own on fresh numbers, over every class of shapes that has code of its own.
    #[must_use]
    pub fn kernels(&self) -> Vec<Parity> {
        let mut draw = Draw::new(self);
        for width in [8, 256, 384, 512, 768, 1024, 2048] {
            draw.note("add-norm", format!("37 x {width}"), |draw| draw.add_norm(37, width));
            for has_types in [true, false] {
                draw.note("embed", format!("37 x {width}, types {has_types}"), |draw| draw.embed(37, width, has_types));
            }
        }
        for head in [16, 32, 48, 64, 80, 96, 128] {
            for lengths in [&[1, 17, 31, 32, 33, 63, 64, 65][..], &[128, 200, 3], &[257]] {
                let case = format!("heads of {head}, lengths {lengths:?}");
                draw.note("attend", case, |draw| draw.attention(head, lengths));
            }
        }
        for activation in Activation::ALL {
            draw.note("activate", format!("{activation:?}, 9 x 1000"), |draw| draw.activation(activation, 9, 1000));
        }
        for pooling in Pooling::ALL {
            for into in [Element::F32, Element::Bf16] {
                draw.note("pool", format!("{pooling:?}, into {into:?}"), |draw| draw.pooling(pooling, into));
            }
        }
        draw.note("pick", "4 of 20 x 768".to_owned(), |draw| draw.pick(768));
        for vocabulary in [7, 511, 30_522] {
            draw.note("top", format!("5 of {vocabulary}"), |draw| draw.top(vocabulary));
        }
        draw.found
    }

    /// Matrix products of the shapes that plans have, into either type, with each epilogue.
    #[must_use]
    pub fn products(&self) -> Vec<Parity> {
        let mut draw = Draw::new(self);
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
        for &(rows, outputs, inputs) in products {
            draw.product_cases(rows, outputs, inputs);
        }
        draw.found
    }
}

/// Draws numbers, runs ops on them, and notes how far they are off.
struct Draw<'a> {
    random: StdRng,
    check: &'a GpuCheck,
    found: Vec<Parity>,
}

impl<'a> Draw<'a> {
    fn new(check: &'a GpuCheck) -> Self {
        Self { random: StdRng::seed_from_u64(check.seed), check, found: Vec::new() }
    }

    fn bench(&self) -> Bench {
        Bench::on(&self.check.queue)
    }

    fn numbers(&mut self, count: usize) -> Numbers {
        let narrow: Vec<_> = (0..count).map(|_| bf16::from_f32(self.random.random_range(-1.0..1.0f32))).collect();
        let wide = narrow.iter().map(|x| x.to_f64()).collect();
        Numbers { narrow, wide }
    }

    fn vector(&mut self, width: usize, centre: f32) -> Vec<f32> {
        (0..width).map(|_| centre + self.random.random_range(-0.3..0.3f32)).collect()
    }

    /// Runs an op and notes how far what it found is from what was expected; one that does not run is as far as can be.
    fn note(&mut self, op: &'static str, case: String, run: impl FnOnce(&mut Self) -> Result<Compared, CheckError>) {
        let (case, apart) = match run(self) {
            Ok(compared) => (case, compared.apart()),
            Err(error) => (format!("{case}: {error}"), f64::NAN),
        };
        self.found.push(Parity { op, case, apart });
    }

    fn add_norm(&mut self, rows: usize, width: usize) -> Result<Compared, CheckError> {
        let (input, residual) = (self.numbers(rows * width), self.numbers(rows * width));
        let (gain, shift, epsilon) = (self.vector(width, 1.0), self.vector(width, 0.0), 1e-5);
        let mut bench = self.bench();
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
        let expected =
            sums.chunks_exact(width).flat_map(|row| normalize(NormKind::Layer, row, &gain, &shift, epsilon)).collect();
        Ok(Compared { found: narrow(&bench, add_norm.output), expected })
    }

    fn embed(&mut self, tokens: usize, width: usize, has_types: bool) -> Result<Compared, CheckError> {
        let [words, positions, kinds] = [50, 20, 2].map(|count| self.numbers(count * width));
        let (gain, shift, epsilon) = (self.vector(width, 1.0), self.vector(width, 0.0), 1e-5);
        let mut below = |end: u32| -> Vec<u32> { (0..tokens).map(|_| self.random.random_range(0..end)).collect() };
        let (ids, places, types) = (below(50), below(20), below(if has_types { 2 } else { 1 }));
        let mut bench = self.bench();
        let embed_all = Embed {
            tokens,
            width,
            ids: bench.put(&ids),
            places: bench.put(&places),
            types: has_types.then(|| bench.put(&types)),
            words: bench.put(&words.narrow),
            positions: bench.put(&positions.narrow),
            kinds: Some(bench.put(&kinds.narrow)),
            gain: bench.put(&gain),
            shift: bench.put(&shift),
            epsilon,
            output: bench.room::<bf16>(tokens * width),
        };
        bench.run(embed_all.command()).map_err(say)?;
        let row = |table: &Numbers, row: u32| table.wide[row as usize * width..][..width].to_vec();
        let expected = (0..tokens)
            .flat_map(|token| {
                let rows = [row(&words, ids[token]), row(&positions, places[token]), row(&kinds, types[token])];
                embed(NormKind::Layer, &[&rows[0], &rows[1], &rows[2]], &gain, &shift, epsilon)
            })
            .collect();
        Ok(Compared { found: narrow(&bench, embed_all.output), expected })
    }

    fn attention(&mut self, head: usize, lengths: &[usize]) -> Result<Compared, CheckError> {
        let (heads, scale) = (3, 2.0 / (head as f32).sqrt());
        let mut splits = vec![0];
        lengths.iter().for_each(|length| splits.push(splits[splits.len() - 1] + length));
        let (tokens, width) = (splits[splits.len() - 1], heads * head);
        let qkv = self.numbers(tokens * 3 * width);
        let mut list: Vec<u32> = tiles(&splits).flatten().collect();
        // Tiles to spare, as what was captured for more sequences has.
        list.extend([0; 6]);
        let mut bench = self.bench();
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
        Ok(Compared { found: narrow(&bench, attention.output), expected })
    }

    fn activation(&mut self, activation: Activation, rows: usize, width: usize) -> Result<Compared, CheckError> {
        let (matrix, bias) = (self.numbers(rows * width), self.numbers(width));
        let mut bench = self.bench();
        let (at, shift) = (bench.put(&matrix.narrow), bench.put(&bias.narrow));
        bench.run(Activate { rows, width, matrix: at, bias: Some(shift), activation }.command()).map_err(say)?;
        let sum = |(index, x): (usize, &f64)| activate(x + bias.wide[index % width], activation);
        let expected = matrix.wide.iter().enumerate().map(sum).collect();
        Ok(Compared { found: narrow(&bench, at), expected })
    }

    fn pooling(&mut self, pooling: Pooling, into: Element) -> Result<Compared, CheckError> {
        let (width, splits) = (768, [0_u32, 1, 5, 90]);
        let input = self.numbers(90 * width);
        let mut bench = self.bench();
        let pooled = Pool {
            sequences: 3,
            width,
            pooling,
            input: bench.put(&input.narrow),
            splits: bench.put(&splits),
            output: bench.room::<u8>(3 * width * into.bytes()),
            into,
        };
        bench.run(pooled.command()).map_err(say)?;
        let rows: Vec<Vec<f64>> = input.wide.chunks_exact(width).map(<[f64]>::to_vec).collect();
        let of = |pair: &[u32]| pool(&rows[pair[0] as usize..pair[1] as usize], pooling);
        let expected = splits.windows(2).flat_map(of).collect();
        Ok(Compared { found: of_element(&bench, pooled.output, into), expected })
    }

    fn pick(&mut self, width: usize) -> Result<Compared, CheckError> {
        let marks = [0_u32, 7, 8, 19];
        let input = self.numbers(20 * width);
        let mut bench = self.bench();
        let picked = Pick {
            marks: marks.len(),
            width,
            input: bench.put(&input.narrow),
            list: bench.put(&marks),
            output: bench.room::<bf16>(marks.len() * width),
        };
        bench.run(picked.command()).map_err(say)?;
        let expected = marks.iter().flat_map(|mark| input.wide[*mark as usize * width..][..width].to_vec()).collect();
        Ok(Compared { found: narrow(&bench, picked.output), expected })
    }

    fn top(&mut self, vocabulary: usize) -> Result<Compared, CheckError> {
        let (rows, count) = (3, 5.min(vocabulary));
        let logits: Vec<f32> = (0..rows * vocabulary).map(|_| self.random.random_range(-9.0..9.0f32)).collect();
        let mut bench = self.bench();
        let top = Top {
            rows,
            vocabulary,
            count,
            logits: bench.put(&logits),
            output: bench.room::<u8>(rows * top::cuda::bytes(count)),
        };
        bench.run(top.command()).map_err(say)?;
        let numbers = |best: &top::Best| -> Vec<f64> {
            let entries = best.entries.iter().flat_map(|(id, logit)| [f64::from(*id), f64::from(*logit)]);
            [f64::from(best.largest), f64::from(best.sum)].into_iter().chain(entries).collect()
        };
        let expected =
            logits.chunks_exact(vocabulary).flat_map(|row| numbers(&top::reference::top(row, count))).collect();
        let output = bench.read::<u8>(top.output);
        let found = top::cuda::read(&output, count).flat_map(|best| numbers(&best)).collect();
        Ok(Compared { found, expected })
    }

    /// One shape with all that may be done to its sums, which are computed once.
    fn product_cases(&mut self, rows: usize, outputs: usize, inputs: usize) {
        let (input, weight) = (self.numbers(rows * inputs), self.numbers(outputs * inputs));
        let bias = self.numbers(outputs);
        let mut sums = Vec::with_capacity(rows * outputs);
        for row in input.wide.chunks_exact(inputs) {
            for weight in weight.wide.chunks_exact(inputs) {
                sums.push(row.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>());
            }
        }
        for into in [Element::Bf16, Element::F32] {
            for (epilogue, has_bias) in [
                (Epilogue::Identity, false),
                (Epilogue::Identity, true),
                (Epilogue::Relu, true),
                (Epilogue::GeluTanh, true),
            ] {
                // What is handed out is never an activation, and a few labels never another op's input.
                if into == Element::F32 && epilogue != Epilogue::Identity || into == Element::Bf16 && outputs < 8 {
                    continue;
                }
                let case =
                    format!("[{rows}, {inputs}] x [{outputs}, {inputs}], {epilogue:?}, bias {has_bias}, into {into:?}");
                self.note("gemm", case, |draw| {
                    let mut bench = draw.bench();
                    let shift = match into {
                        Element::Bf16 => bench.put(&bias.narrow),
                        Element::F32 => bench.put(&bias.wide.iter().map(|x| *x as f32).collect::<Vec<_>>()),
                    };
                    let product = Product {
                        rows,
                        outputs,
                        inputs,
                        input: bench.put(&input.narrow),
                        weight: bench.put(&weight.narrow),
                        bias: has_bias.then_some(shift),
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
                    let finish = |(index, sum): (usize, &f64)| {
                        activate(sum + if has_bias { bias.wide[index % outputs] } else { 0.0 }, activation)
                    };
                    let expected = sums.iter().enumerate().map(finish).collect();
                    Ok(Compared { found: of_element(&bench, product.output, into), expected })
                });
            }
        }
    }
}

/// What an op gave, and what it should have.
struct Compared {
    found: Vec<f64>,
    expected: Vec<f64>,
}

impl Compared {
    fn apart(&self) -> f64 {
        if self.found.len() != self.expected.len() {
            return f64::NAN;
        }
        let off: f64 = self.found.iter().zip(&self.expected).map(|(found, expected)| (found - expected).powi(2)).sum();
        let all: f64 = self.expected.iter().map(|expected| expected.powi(2)).sum();
        (off / all).sqrt()
    }
}

fn narrow(bench: &Bench, span: Span) -> Vec<f64> {
    of_element(bench, span, Element::Bf16)
}

fn of_element(bench: &Bench, span: Span, element: Element) -> Vec<f64> {
    match element {
        Element::Bf16 => bench.read::<bf16>(span).iter().map(|x| x.to_f64()).collect(),
        Element::F32 => bench.read::<f32>(span).iter().map(|x| f64::from(*x)).collect(),
    }
}
