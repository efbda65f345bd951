//! Policies beside each other inside Shoal's server, with a real encoder on its CPU engine: the learned one, `fixed`, and
//! those of Triton and text-embeddings-inference, as they come and as they do best.
//!
//! What the machine can do is measured first, and loads are parts of it. All policies get the same texts at the same
//! moments. A policy's server lives through all its loads, as a user's would.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use shoal_sim::Rng;
use shoal_sim::scenario::{Gaps, Process};

use crate::figures::{Figures, Round};
use crate::machine::{OTHERS_MAX, Others, description, load_average};
use crate::shoal::{Home, Server, Shoal, arguments, path};
use crate::table::Table;

const MODEL: &str = "minilm";
/// Tokens of each text, every length as often.
const LENGTHS: &str = "8-256";
/// Parts of the capacity that are asked for.
const LOADS: [f64; 4] = [0.3, 0.6, 0.9, 1.2];
/// Where settings are chosen: the busiest load that can be answered, and bursts.
const CHOSEN_AT: [(Arrivals, f64); 2] = [(Arrivals::Poisson, 0.9), (Arrivals::CodeLike, 0.6)];
/// Before every measurement, with its own load.
const WARMUP: Duration = Duration::from_secs(2);
/// A window of a bursty process may hold so much more or less than the mean rate.
const WINDOW_ERROR_MAX: f64 = 0.03;

/// Compares policies with a real model.
#[derive(Args)]
pub(crate) struct Options {
    /// The latency objective.
    #[arg(long, default_value = "100ms", value_parser = milliseconds)]
    objective: Duration,
    /// How long each load is measured; where bursts are seconds apart, twice as long.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Leave settings untried that users of Triton and text-embeddings-inference would have to find.
    #[arg(long)]
    no_sweep: bool,
    /// What texts and moments are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A duration in whole milliseconds, written as `100ms`.
fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix("ms").and_then(|number| number.parse().ok()).filter(|number| *number > 0);
    number.map(Duration::from_millis).ok_or_else(|| format!("`{text}` is not a duration such as 100ms"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrivals {
    Poisson,
    CodeLike,
}

impl Arrivals {
    const ALL: [Self; 2] = [Self::Poisson, Self::CodeLike];

    fn name(self) -> &'static str {
        match self {
            Self::Poisson => "Poisson",
            Self::CodeLike => "code-like",
        }
    }

    fn process(self) -> Process {
        match self {
            Self::Poisson => Process::Poisson,
            Self::CodeLike => Process::code_like(),
        }
    }
}

/// A policy, set.
#[derive(Clone, Debug)]
struct Setting {
    name: String,
    /// Lines of the model's table.
    model: String,
    /// Tokens that a worker takes at once, where that is not the server's default.
    worker_tokens: Option<u32>,
}

impl Setting {
    fn new(name: impl Into<String>, model: &str) -> Self {
        Self { name: name.into(), model: model.to_owned(), worker_tokens: None }
    }

    /// What needs no tuning, the first of them being our own.
    fn untuned() -> Vec<Self> {
        vec![
            Self::new("learned", ""),
            Self::new("learned, shed", "on_late = \"shed\"\n"),
            Self::new("fixed", "policy = \"fixed\"\n"),
        ]
    }

    /// Triton's dynamic batcher, as documented first: no delay and no preferred sizes.
    fn tritons() -> Vec<Self> {
        let mut settings = Vec::new();
        for delay_ms in [0, 1, 5, 20] {
            for (preferred, named) in [("", ""), ("preferred_rows = [8, 16, 32]\n", ", preferred 8 16 32")] {
                let model = format!("policy = \"triton\"\nqueue_delay_max = \"{delay_ms}ms\"\n{preferred}");
                settings.push(Self::new(format!("Triton, delay {delay_ms} ms{named}"), &model));
            }
        }
        settings
    }

    /// text-embeddings-inference, as documented first: batches of 16,384 tokens, and 512 requests at once. The budget is
    /// its own, so the worker's must not be smaller.
    fn teis() -> Vec<Self> {
        let setting = |tokens: u32| {
            let model = format!("policy = \"tei\"\nbatch_tokens_max = {tokens}\n");
            Self { worker_tokens: Some(tokens), ..Self::new(format!("TEI, {tokens} tokens"), &model) }
        };
        [16_384, 512, 1_024, 2_048, 4_096].map(setting).into()
    }

    fn settings(&self, objective: Duration) -> String {
        let mut settings = String::new();
        if let Some(tokens) = self.worker_tokens {
            // Writing to a string cannot fail.
            let _ = writeln!(settings, "worker_batch_tokens = {tokens}");
        }
        let _ = write!(settings, "[models.{MODEL}]\nslo = \"{}ms\"\n{}", objective.as_millis(), self.model);
        settings
    }
}

/// One measurement.
struct Cell {
    arrivals: Arrivals,
    load: f64,
    round: Round,
}

/// A policy with all that was measured of it.
struct Measured {
    setting: Setting,
    cells: Vec<Cell>,
}

/// What is asked, of whom, and how fast the machine is.
struct Bench<'a> {
    shoal: &'a Shoal,
    options: &'a Options,
    /// Calls a second.
    capacity: f64,
    folder: tempfile::TempDir,
}

/// Runs it. Nothing of it can fail a check: it compares.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let shoal = Shoal::build()?;
    shoal.pull(MODEL)?;
    println!("{}; load {:.1} before the run.", description()?, load_average()?);
    let capacity = capacity(&shoal, options)?;
    let bench = Bench { shoal: &shoal, options, capacity, folder: tempfile::tempdir()? };
    let mut settings = Setting::untuned();
    for (swept, peer) in [(Setting::tritons(), "Triton"), (Setting::teis(), "TEI")] {
        let default = swept.first().cloned();
        settings.extend(default.map(|setting| Setting { name: format!("{peer}, defaults"), ..setting }));
        if !options.no_sweep {
            let best = bench.best(swept)?;
            settings.push(Setting { name: format!("{}, the best", best.name), ..best });
        }
    }
    let mut all = Vec::new();
    for setting in settings {
        let cells = Arrivals::ALL.into_iter().flat_map(|arrivals| LOADS.map(|load| (arrivals, load)));
        all.push(bench.measure(setting, &cells.collect::<Vec<_>>())?);
    }
    println!("{}", report(&all, options.objective));
    Ok(true)
}

/// What is answered when there is always something to do, with nothing held back.
fn capacity(shoal: &Shoal, options: &Options) -> anyhow::Result<f64> {
    let server = serve(shoal, &Setting::new("fixed", "policy = \"fixed\"\n"), options.objective)?;
    let closed = |concurrency: u32| {
        let seconds = format!("{}s", options.seconds);
        let mut load = arguments([("--lengths", LENGTHS.into()), ("--duration", seconds)]);
        load.extend(arguments([("--concurrency", concurrency.to_string()), ("--seed", options.seed.to_string())]));
        shoal.load(&server, &load)
    };
    let alone = closed(1)?;
    let others = Others::from_now(server.cpu_seconds()?)?;
    let busy = closed(64)?;
    let others = others.share(server.cpu_seconds()?)?;
    let (p50_ms, rate) = (alone.latency_us.p50 as f64 / 1e3, busy.rates.ok);
    println!(
        "Texts of {LENGTHS} tokens: {p50_ms:.1} ms for one alone, {rate:.0} a second from 64 callers; others took {:.0} % of \
         the processors.\n",
        others * 100.0
    );
    Ok(rate)
}

fn serve(shoal: &Shoal, setting: &Setting, objective: Duration) -> anyhow::Result<Server> {
    shoal.serve(&setting.settings(objective), &[MODEL.to_owned()], 1, Home::Own)
}

impl Bench<'_> {
    /// The setting with most on time where settings are chosen.
    fn best(&self, settings: Vec<Setting>) -> anyhow::Result<Setting> {
        let mut table = Table::new(["setting", "Poisson, 90 %", "code-like, 60 %", "others' CPU"]);
        let mut measured = Vec::new();
        for setting in settings {
            let one = self.measure(setting, &CHOSEN_AT)?;
            let mut row = vec![one.setting.name.clone()];
            row.extend(one.cells.iter().map(|cell| cell_of(&cell.round.figures)));
            row.push(format!("{:.0} %", one.others_max() * 100.0));
            table.push(row);
            measured.push(one);
        }
        println!("{table}");
        let best = measured.into_iter().max_by(|one, other| one.worth().total_cmp(&other.worth()));
        best.map(|best| best.setting).ok_or_else(|| anyhow::anyhow!("no setting to choose from"))
    }

    fn measure(&self, setting: Setting, cells: &[(Arrivals, f64)]) -> anyhow::Result<Measured> {
        let server = serve(self.shoal, &setting, self.options.objective)?;
        let mut measured = Vec::new();
        for &(arrivals, load) in cells {
            let arguments = self.load(arrivals, load)?;
            let others = Others::from_now(server.cpu_seconds()?)?;
            let report = self.shoal.load(&server, &arguments)?;
            let others = others.share(server.cpu_seconds()?)?;
            let figures = Figures::real(&report);
            let (name, at, told) = (&setting.name, load * 100.0, cell_of(&figures));
            eprintln!("{name}: {} at {at:.0} %: {told}; others {:.0} %", arrivals.name(), others * 100.0);
            measured.push(Cell { arrivals, load, round: Round { figures, others } });
        }
        Ok(Measured { setting, cells: measured })
    }

    /// The arguments of one load: a trace, so that all policies are asked the same at the same moments.
    fn load(&self, arrivals: Arrivals, load: f64) -> anyhow::Result<Vec<String>> {
        let Options { seconds, seed, objective, .. } = self.options;
        let window = Duration::from_secs(if arrivals == Arrivals::CodeLike { seconds * 2 } else { *seconds });
        let trace = trace(arrivals.process(), self.capacity * load, window, *seed)?;
        let file: PathBuf = self.folder.path().join(format!("{}-{load}.csv", arrivals.name()));
        std::fs::write(&file, trace)?;
        Ok(arguments([
            ("--arrivals", "replay".into()),
            ("--trace", path(&file)?),
            ("--lengths", LENGTHS.into()),
            ("--seed", seed.to_string()),
            ("--warmup", format!("{}ms", WARMUP.as_millis())),
            ("--objective", format!("{}ms", objective.as_millis())),
            ("--connections", "32".into()),
            ("--outstanding-max", "8192".into()),
        ]))
    }
}

/// The moments of a process from the first seed on whose window, the warm-up apart, has its mean rate.
fn trace(process: Process, rate: f64, window: Duration, seed: u64) -> anyhow::Result<String> {
    const SEEDS: u64 = 100_000;
    let expected = rate * window.as_secs_f64();
    let nanos = |duration: Duration| duration.as_nanos() as u64;
    for seed in seed..seed + SEEDS {
        let gaps = Gaps::new(process, rate, Rng::new(seed));
        let moments: Vec<u64> = gaps.take_while(|at| *at < nanos(WARMUP + window)).collect();
        let first = moments.first().copied().unwrap_or(0);
        let measured = moments.iter().filter(|at| **at - first >= nanos(WARMUP)).count() as f64;
        if moments.len() > 1 && (measured / expected - 1.0).abs() <= WINDOW_ERROR_MAX {
            let mut trace = "seconds\n".to_owned();
            for at in moments {
                // Writing to a string cannot fail.
                let _ = writeln!(trace, "{:.9}", (at - first) as f64 / 1e9);
            }
            return Ok(trace);
        }
    }
    anyhow::bail!("no {window:?} of {SEEDS} have a rate of {rate:.1} a second; ask for longer ones")
}

impl Measured {
    /// Part of the requests on time, over all that was measured.
    fn worth(&self) -> f64 {
        self.cells.iter().map(|cell| cell.round.figures.on_time).sum()
    }

    fn others_max(&self) -> f64 {
        self.cells.iter().map(|cell| cell.round.others).fold(0.0, f64::max)
    }
}

/// On time; median and 99th percentile; mean batch; and what was refused, if anything was.
fn cell_of(figures: &Figures) -> String {
    let Figures { on_time, unanswered, p50_ms, p99_ms, batch } = figures;
    let refused = if *unanswered > 0.0 { format!("; {:.1} % refused", unanswered * 100.0) } else { String::new() };
    format!("{:.1} %; {p50_ms:.0} / {p99_ms:.0} ms; {batch:.1}{refused}", on_time * 100.0)
}

fn report(all: &[Measured], objective: Duration) -> String {
    let mut text = format!("On time within {objective:?}; median and 99th percentile; rows of the mean batch.\n");
    for arrivals in Arrivals::ALL {
        let mut table = Table::new([arrivals.name(), "30 %", "60 %", "90 %", "120 %", "others' CPU"]);
        for Measured { setting, cells } in all {
            let of = || cells.iter().filter(|cell| cell.arrivals == arrivals);
            let mut row = vec![setting.name.clone()];
            for load in LOADS {
                row.push(
                    of().find(|cell| cell.load == load).map_or_else(String::new, |cell| cell_of(&cell.round.figures)),
                );
            }
            let most = of().map(|cell| cell.round.others).fold(0.0, f64::max);
            row.push(format!("{:.0} %{}", most * 100.0, if most > OTHERS_MAX { ", noisy" } else { "" }));
            table.push(row);
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{table}");
    }
    let noisy = all.iter().any(|measured| measured.others_max() > OTHERS_MAX);
    if noisy {
        let most = OTHERS_MAX * 100.0;
        let _ = writeln!(
            text,
            "\nNOISY: others took more than {most:.0} % of the processors. Run it again on a quiet machine."
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_has_the_mean_rate_however_bursty_and_begins_at_once() {
        let window = Duration::from_secs(18);
        let of = |arrivals: Arrivals, rate| trace(arrivals.process(), rate, window, 1).unwrap();
        for arrivals in Arrivals::ALL {
            let trace = of(arrivals, 100.0);
            let moments: Vec<f64> = trace.lines().skip(1).map(|line| line.parse().unwrap()).collect();
            assert_eq!(moments[0], 0.0);
            let measured = moments.iter().filter(|at| **at >= WARMUP.as_secs_f64()).count() as f64;
            assert!((measured / 1_800.0 - 1.0).abs() <= WINDOW_ERROR_MAX, "{arrivals:?}: {measured}");
        }
        assert_eq!(of(Arrivals::CodeLike, 100.0), of(Arrivals::CodeLike, 100.0));
    }

    #[test]
    fn settings_are_of_their_policy_with_the_defaults_first() {
        let objective = Duration::from_millis(100);
        let triton = Setting::tritons().swap_remove(0).settings(objective);
        assert_eq!(triton, "[models.minilm]\nslo = \"100ms\"\npolicy = \"triton\"\nqueue_delay_max = \"0ms\"\n");
        let tei = Setting::teis().swap_remove(0).settings(objective);
        assert!(tei.starts_with("worker_batch_tokens = 16384\n[models.minilm]\n"), "{tei}");
        assert!(tei.ends_with("policy = \"tei\"\nbatch_tokens_max = 16384\n"), "{tei}");
    }

    #[test]
    fn the_report_has_a_row_for_each_policy_and_says_when_the_machine_was_not_quiet() {
        let figures = Figures { on_time: 0.987, unanswered: 0.01, p50_ms: 12.4, p99_ms: 80.0, batch: 3.21 };
        let measured = |others| Measured {
            setting: Setting::new("learned", ""),
            cells: vec![Cell { arrivals: Arrivals::Poisson, load: 0.6, round: Round { figures, others } }],
        };
        let quiet = report(&[measured(0.1)], Duration::from_millis(100));
        let row = "98.7 %; 12 / 80 ms; 3.2; 1.0 % refused";
        assert!(quiet.lines().any(|line| line.starts_with("| learned | ") && line.contains(row)), "{quiet}");
        assert!(!quiet.contains("NOISY"), "{quiet}");
        let noisy = report(&[measured(0.5)], Duration::from_millis(100));
        assert!(noisy.contains("50 %, noisy") && noisy.contains("NOISY"), "{noisy}");
    }

    #[test]
    fn objectives_are_whole_milliseconds() {
        assert_eq!(milliseconds("100ms"), Ok(Duration::from_millis(100)));
        assert!(["100", "0ms", "1s", "ms"].into_iter().all(|text| milliseconds(text).is_err()));
    }
}
