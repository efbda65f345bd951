//! Shoal's engine as a program that other engines are compared with: `benches/peers` speaks to it.
//!
//! It is told a model, a type of numbers and threads, then reads requests as lines of JSON and answers each with one:
//!
//! - `{"op": "shape", "ids": [[…], …], "rounds": 3, "want": true}` runs these token ids as one batch, so many times, and
//!   answers `{"seconds": […], "embeddings_sha": "…", "embeddings": [[…], …]}`, the last only if wanted;
//! - `{"op": "peak"}` measures the silicon: `{"f32": …, "bf16": …, "int8": …}` in 10⁹ operations a second over all threads,
//!   a multiply-add being two, null for what it lacks.

mod peak;

use std::io::{BufRead as _, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use clap::Parser;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shoal_worker::{CpuIsa, Offline};

/// Runs one embedding model for whoever writes to its standard input.
#[derive(Parser)]
struct Arguments {
    /// The model's folder, in Hugging Face layout.
    #[arg(long)]
    model: PathBuf,
    /// Threads to compute on.
    #[arg(long, default_value = "2")]
    threads: NonZeroUsize,
    /// What to compute in: auto, f32, bf16, int8, int8-mixed; or candle, which is f32 without kernels of our own.
    #[arg(long, default_value = "auto")]
    dtype: String,
    /// Instructions to use; the best there are when unset.
    #[arg(long)]
    cpu_isa: Option<CpuIsa>,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Request {
    Shape {
        ids: Vec<Vec<u32>>,
        rounds: usize,
        #[serde(default)]
        want: bool,
    },
    Peak,
}

#[derive(Serialize)]
struct Ran {
    seconds: Vec<f64>,
    embeddings_sha: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    embeddings: Option<Vec<Vec<f32>>>,
}

fn main() -> anyhow::Result<()> {
    let Arguments { model, threads, dtype, cpu_isa } = Arguments::parse();
    let (dtype, isa) = if dtype == "candle" { ("f32".to_owned(), Some(CpuIsa::Portable)) } else { (dtype, cpu_isa) };
    let mut model = Offline::open(&model, &dtype, isa, Some(threads))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let request = serde_json::from_str(&line).with_context(|| format!("not a request: {line:.80}"))?;
        let answer = match request {
            Request::Shape { ids, rounds, want } => serde_json::to_string(&run(&mut model, &ids, rounds, want)?)?,
            Request::Peak => serde_json::to_string(&peak::measure(threads))?,
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn run(model: &mut Offline, ids: &[Vec<u32>], rounds: usize, want: bool) -> anyhow::Result<Ran> {
    let mut seconds = Vec::with_capacity(rounds);
    let mut embeddings = Vec::new();
    for _ in 0..rounds {
        let started = Instant::now();
        embeddings = model.embed(ids)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    let mut hasher = Sha256::new();
    embeddings.iter().flatten().for_each(|x| hasher.update(x.to_le_bytes()));
    let embeddings_sha = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Ran { seconds, embeddings_sha, embeddings: want.then_some(embeddings) })
}
