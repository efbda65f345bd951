//! The price of a hop: ModelInfer through server, scheduler and worker process, beside a bare gRPC server that answers
//! the same calls by itself.
//!
//!     cargo bench -p shoal-benches --bench hop                  # builds the release binary, prints the ratios
//!     cargo bench -p shoal-benches --bench hop -- --rounds 9    # more rounds, when the machine is noisy
//!
//! Both answer the same 64 bytes, both are asked by h2load, and all processes share the same processors. The two take
//! turns, so that what else the machine does falls on both; each figure is the median of the rounds.

mod bare;
mod h2load;
mod side;

use std::time::Duration;

use h2load::{H2load, Shape};
use side::Side;

/// Many calls in flight.
const BUSY: Shape = Shape { name: "256 in flight", connections: 8, streams: 32 };
/// One call after the other.
const LONE: Shape = Shape { name: "1 in flight", connections: 1, streams: 1 };

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut rounds, mut seconds) = (5usize, 3u64);
    while let Some(argument) = arguments.next() {
        let mut number = || -> anyhow::Result<u64> {
            let value = arguments.next().ok_or_else(|| anyhow::anyhow!("{argument} needs a number"))?;
            Ok(value.parse()?)
        };
        match argument.as_str() {
            "--bare" => return bare::serve(),
            "--rounds" => rounds = number()?.max(1) as usize,
            "--seconds" => seconds = number()?.max(1),
            // What cargo adds by itself.
            "--bench" => {}
            other => anyhow::bail!("unknown argument {other}; there are --rounds N and --seconds N"),
        }
    }
    let h2load = H2load::find(Duration::from_secs(seconds))?;
    let (bare, shoal) = (Side::bare()?, Side::shoal()?);
    for shape in [BUSY, LONE] {
        let mut runs = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            runs.0.push(bare.measure(&h2load, &shape)?);
            runs.1.push(shoal.measure(&h2load, &shape)?);
        }
        report(&shape, &runs.0, &runs.1);
    }
    Ok(())
}

fn report(shape: &Shape, bare: &[side::Run], shoal: &[side::Run]) {
    let of = |runs: &[side::Run], figure: fn(&side::Run) -> f64| median(runs.iter().map(figure).collect());
    println!(
        "\n{} ({} connections of {} streams), medians of {} rounds:",
        shape.name,
        shape.connections,
        shape.streams,
        bare.len()
    );
    println!("  {:28} {:>10} {:>10} {:>8}", "", "bare", "shoal", "ratio");
    let line = |what: &str, figure: fn(&side::Run) -> f64| {
        let (bare, shoal) = (of(bare, figure), of(shoal, figure));
        println!("  {what:28} {bare:>10.1} {shoal:>10.1} {:>8.2}", shoal / bare);
    };
    line("calls per second", |run| run.rate);
    line("median latency, µs", |run| run.median_us);
    line("99th percentile, µs", |run| run.p99_us);
    line("processor time per call, µs", |run| run.cpu_us);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
