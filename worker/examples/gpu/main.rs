//! Examines a GPU: that every kernel and whole models are right on it, and how fast they are beside what the device can do
//! at best, measured in the same run. `benches/gpu/check` carries it to a machine with one.
//!
//! Ends with failure when something is not right. What is only slow is said, not judged: machines differ.

mod report;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use report::{Report, Row};
use shoal_worker::gpu_check::{Ceilings, Encoder, GpuCheck, Parity, Shape, Which};

/// Examines a GPU: right, and how fast.
#[derive(Parser)]
struct Arguments {
    /// A GPU of NVIDIA's, or the emulator, which shows that this program works where there is no GPU.
    #[arg(long, value_enum, default_value = "nvidia")]
    device: Device,
    /// Parts to run [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Where compiled kernels and models are kept meanwhile [default: a folder that goes away]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// What all numbers are drawn from; another one is another examination [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// Where to write all of it as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Device {
    Nvidia,
    Emulated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Each kernel of our own against its reference loop.
    Kernels,
    /// Matrix products against the same.
    Products,
    /// Whole models against the processor.
    Answers,
    /// Each op's time beside the ceilings.
    Speed,
    /// Device memory that a worker with one model takes.
    Memory,
    /// Whole batches' time beside the ceilings.
    Batches,
    /// Small batches on one stream and on two side by side.
    Overlap,
    /// Models that take turns.
    Paging,
}

/// What models are computed in: what a model of many ops may be off, and the least cosine of any of its embeddings.
const DTYPES: [(&str, f64, f64); 5] = [
    ("bf16", 3e-2, 0.999),
    ("f16", 4e-3, 0.99999),
    ("f32", 1e-4, 0.999_999),
    ("int8", 0.1, 0.99),
    ("int8-mixed", 5e-2, 0.998),
];

/// Rows and their lengths of batches that may overlap, from those that leave most of a GPU idle to those that leave none.
const OVERLAPPED: [(usize, usize); 5] = [(1, 32), (8, 32), (8, 128), (32, 128), (128, 128)];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let scratch = tempfile::tempdir()?;
    let folder = arguments.folder.clone().unwrap_or_else(|| scratch.path().to_owned());
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let seed = arguments.seed.unwrap_or(since.as_secs());
    let which = match arguments.device {
        Device::Nvidia => Which::Nvidia(folder.join("kernels")),
        Device::Emulated => Which::Emulated,
    };
    let check = GpuCheck::open(which, seed)?;
    let mut report = Report::new(&check.device(), seed);
    println!("{}, seed {seed}", check.device());
    // Memory first: what others leave behind would count.
    let all = [
        Part::Memory,
        Part::Kernels,
        Part::Products,
        Part::Answers,
        Part::Speed,
        Part::Batches,
        Part::Overlap,
        Part::Paging,
    ];
    let parts = if arguments.only.is_empty() { &all[..] } else { &arguments.only };
    let examination = Examination { check: &check, folder: &folder, is_small: arguments.device == Device::Emulated };
    for part in parts {
        let rows = match part {
            Part::Kernels => Ok(apart(&[check.kernels(), check.int8()].concat())),
            Part::Products => Ok(apart(&check.products())),
            Part::Answers => examination.answers(),
            Part::Speed => examination.speed(),
            Part::Memory => examination.memory(),
            Part::Batches => examination.batches(),
            Part::Overlap => examination.overlap(),
            Part::Paging => examination.paging(),
        };
        // What does not run is wrong, and no reason not to run the rest.
        let rows = rows.unwrap_or_else(|error| vec![Row::new("does not run", &format!("{error:#}")).right(false)]);
        report.add(&format!("{part:?}"), rows);
        if let Some(path) = &arguments.json {
            std::fs::write(path, report.json()?).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    anyhow::ensure!(report.is_right(), "{}", report.wrong());
    println!("all that was examined is right");
    Ok(())
}

struct Examination<'a> {
    check: &'a GpuCheck,
    folder: &'a Path,
    /// For the emulator: a little of everything.
    is_small: bool,
}

fn apart(parities: &[Parity]) -> Vec<Row> {
    let row = |parity: &Parity| {
        // What is no number is not below anything.
        Row::new(parity.op, &format!("{}, {}", parity.dtype, parity.case))
            .value("apart", parity.apart)
            .right(parity.apart < parity.apart_max)
    };
    parities.iter().map(row).collect()
}

impl Examination<'_> {
    fn answers(&self) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        let cases = if self.is_small {
            let few = Shape::Uniform { count: 3, length: 20 };
            vec![(Encoder::TINY, few), (Encoder::TINY_MODERNBERT, few), (Encoder::TINY_QWEN3, few)]
        } else {
            vec![
                (Encoder::MINILM, Shape::Mixed { count: 64 }),
                (Encoder::MINILM, Shape::Uniform { count: 1, length: 512 }),
                (Encoder::BERT_BASE, Shape::Mixed { count: 16 }),
                (Encoder::MODERNBERT_BASE, Shape::Mixed { count: 16 }),
                (Encoder::MODERNBERT_BASE, Shape::Uniform { count: 1, length: 2048 }),
                (Encoder::QWEN3_SMALL, Shape::Mixed { count: 8 }),
            ]
        };
        for (encoder, shape) in cases {
            let folder = self.model(&encoder)?;
            for (dtype, apart_max, cosine_min) in DTYPES {
                let answers = self.check.answers(&folder, shape, dtype)?;
                let is_right = answers.apart < apart_max && answers.cosine_min > cosine_min && answers.is_invariant;
                let invariant = if answers.is_invariant { "the same bits alone" } else { "OTHER BITS ALONE" };
                rows.push(
                    Row::new(encoder.name, &format!("{dtype}, {shape:?}, {invariant}"))
                        .value("apart", answers.apart)
                        .value("cosine, least", answers.cosine_min)
                        .right(is_right),
                );
            }
        }
        Ok(rows)
    }

    fn speed(&self) -> anyhow::Result<Vec<Row>> {
        let ceilings = self.ceilings()?;
        let mut rows = vec![
            Row::new("ceiling", "product").value("TFLOP/s", ceilings.flop / 1e12),
            Row::new("ceiling", "copy").value("TB/s", ceilings.bytes / 1e12),
        ];
        let cases: &[(Encoder, usize, usize)] = if self.is_small {
            &[(Encoder::TINY, 2, 20)]
        } else {
            &[
                (Encoder::MINILM, 1, 32),
                (Encoder::MINILM, 32, 128),
                (Encoder::MINILM, 1024, 128),
                (Encoder::BERT_BASE, 1024, 128),
                (Encoder::LARGE, 128, 128),
            ]
        };
        for (encoder, count, length) in cases {
            for op in self.check.op_speeds(encoder, *count, *length)? {
                rows.push(
                    Row::new(&format!("{} {count}x{length} {}", encoder.name, op.op), &op.case)
                        .value("µs", op.seconds * 1e6)
                        .value("TFLOP/s", op.flop / op.seconds / 1e12)
                        .value("TB/s", op.bytes / op.seconds / 1e12)
                        .value("of floor", op.floor(&ceilings) / op.seconds),
                );
            }
        }
        Ok(rows)
    }

    fn batches(&self) -> anyhow::Result<Vec<Row>> {
        let ceilings = self.ceilings()?;
        let uniform = |count, length| Shape::Uniform { count, length };
        let (encoders, shapes, rounds): (&[Encoder], &[Shape], _) = if self.is_small {
            (&[Encoder::TINY], &[uniform(1, 8)], 3)
        } else {
            (
                &[Encoder::MINILM, Encoder::BERT_BASE, Encoder::LARGE, Encoder::MODERNBERT_BASE, Encoder::QWEN3_SMALL],
                &[uniform(1, 32), uniform(32, 128), uniform(1024, 128), Shape::Mixed { count: 256 }],
                50,
            )
        };
        let mut rows = Vec::new();
        for encoder in encoders {
            let folder = self.model(encoder)?;
            for shape in shapes {
                for dtype in ["bf16", "int8"] {
                    let timed = self.check.time(&folder, *shape, dtype, rounds, &ceilings)?;
                    rows.push(
                        Row::new(encoder.name, &format!("{shape:?}, {dtype}"))
                            .value("µs alone", timed.seconds * 1e6)
                            .value("µs in flight", timed.seconds_in_flight * 1e6)
                            .value("tokens/s", timed.tokens as f64 / timed.seconds_in_flight)
                            .value("of floor", timed.floor / timed.seconds_in_flight),
                    );
                }
            }
        }
        Ok(rows)
    }

    fn overlap(&self) -> anyhow::Result<Vec<Row>> {
        let (encoder, lengths, rounds) =
            if self.is_small { (Encoder::TINY, &[(1, 8)][..], 4) } else { (Encoder::MINILM, &OVERLAPPED[..], 2000) };
        let folder = self.model(&encoder)?;
        let mut rows = Vec::new();
        for &(count, length) in lengths {
            let shape = Shape::Uniform { count, length };
            let overlap = self.check.overlap(&folder, shape, rounds)?;
            rows.push(
                Row::new(encoder.name, &format!("{shape:?}"))
                    .value("µs on one stream", overlap.one * 1e6)
                    .value("µs on two", overlap.two * 1e6)
                    .value("times as many", overlap.one / overlap.two),
            );
        }
        Ok(rows)
    }

    fn memory(&self) -> anyhow::Result<Vec<Row>> {
        let encoder = if self.is_small { Encoder::TINY } else { Encoder::MINILM };
        let bytes = self.check.footprint(&self.model(&encoder)?)?;
        let case = format!("{}, beyond the bare context", encoder.name);
        Ok(vec![Row::new("memory", &case).value("MiB", bytes as f64 / f64::from(1 << 20))])
    }

    fn paging(&self) -> anyhow::Result<Vec<Row>> {
        let (encoder, count) = if self.is_small { (Encoder::TINY, 4) } else { (Encoder::MINILM, 100) };
        let paging = self.check.paging(&self.model(&encoder)?, count)?;
        let case = format!("{count} models of {} bytes, room for half", paging.bytes);
        Ok(vec![
            Row::new(encoder.name, &case)
                .value("µs resident", paging.resident * 1e6)
                .value("µs paged in", paging.paged * 1e6),
        ])
    }

    fn ceilings(&self) -> anyhow::Result<Ceilings> {
        Ok(self.check.ceilings()?)
    }

    /// The model's folder, written once.
    fn model(&self, encoder: &Encoder) -> anyhow::Result<PathBuf> {
        let folder = self.folder.join(encoder.name);
        if !folder.join("config.json").exists() {
            encoder.write(&folder, 1)?;
        }
        Ok(folder)
    }
}
