//! Simulated and real: the same requests at the same moments, once in virtual time and once in real processes that sleep
//! as long as a batch would take.
//!
//! What the simulator is told of the machine is measured first, with small batches and large ones: how long a worker stands
//! still between two of them, how much longer a call takes than its batch, and how much longer than asked a worker sleeps.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use shoal_scheduler::{ModelConfig, OnLate, PolicyConfig, Timestamp};
use shoal_sim::contender::configure;
use shoal_sim::play::play;
use shoal_sim::scenario::{Absence, ModelSpec, Scenario};

use crate::figures::{Figures, Round, error, quiet_median};
use crate::machine::{OTHERS_MAX, Others, description, load_average};
use crate::shoal::{Home, Server, Shoal, arguments, path};
use crate::table::Table;
use crate::world::{BATCH_ROWS_MAX, BATCH_TOKENS_MAX, World, worlds};

/// How far a real run may be from the simulated one.
const ERROR_MAX: f64 = 0.1;
/// After which time a client gives up.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Not measured at the beginning: costs are learned.
const WARMUP: Duration = Duration::from_secs(3);

/// Plays scenarios of the simulator with real processes that sleep, and says by how much the simulator errs.
#[derive(Args)]
pub(crate) struct Options {
    /// How long requests arrive in each world; three times as long where bursts are seconds apart.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(5..=600))]
    seconds: u64,
    /// Of so many runs the median is taken, of those in which the machine was quiet.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only worlds whose titles contain one of these, as `mmpp` or `poisson-1w-1m at 0.6`.
    #[arg(long, value_name = "PART", num_args = 1..)]
    only: Vec<String>,
    /// What all requests are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fail when goodput or the 99th percentile is more than a tenth from what was simulated.
    #[arg(long)]
    check: bool,
}

/// What a call costs besides its batch, on this machine now.
#[derive(Clone, Copy, Default)]
struct Overhead {
    /// One way between scheduler and worker, and more for each row.
    link: Duration,
    link_row: Duration,
    /// Between client and scheduler, both ways, and more for each row that is answered at once.
    hop: Duration,
    hop_row: Duration,
    /// How much longer than asked a worker sleeps.
    oversleep: Duration,
}

/// What is compared: a world under a policy.
struct Compared<'a> {
    world: &'a World,
    policy: &'static str,
    simulated: Figures,
    real: Figures,
    /// By how much the simulated figures move when all that a call costs besides is a quarter more or less: goodput, and the
    /// 99th percentile. Where many are late a little more time each makes the last of them wait much longer.
    play: [f64; 2],
    others: f64,
    is_quiet: bool,
}

const POLICIES: [(&str, OnLate, &str); 2] =
    [("serve", OnLate::Serve, "on_late = \"serve\"\n"), ("shed", OnLate::Shed, "on_late = \"shed\"\n")];

/// Runs it. False when the check fails.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let shoal = Shoal::build()?;
    println!("{}; load {:.1} before the run.", description()?, load_average()?);
    let overhead = Overhead::measure(&shoal)?;
    println!("Told to the simulator: {overhead}.\n");
    let worlds = worlds(Duration::from_secs(options.seconds), options.seed);
    let is_asked = |world: &&World| {
        options.only.is_empty() || options.only.iter().any(|part| world.title().contains(part.as_str()))
    };
    let mut all = Vec::new();
    for world in worlds.iter().filter(is_asked) {
        for (policy, on_late, settings) in POLICIES {
            let compared = compare(&shoal, world, (policy, on_late, settings), overhead, options.rounds)?;
            eprintln!("{}", compared.line());
            all.push(compared);
        }
    }
    anyhow::ensure!(!all.is_empty(), "no world is called so");
    print!("{}", table(&all));
    let failed: Vec<_> = all.iter().filter(|compared| !compared.is_near()).collect();
    for compared in &failed {
        println!("\nmore than {:.0} % apart: {}", ERROR_MAX * 100.0, compared.line());
    }
    Ok(failed.is_empty() || !options.check)
}

/// Makes the world so many times, and simulates each.
fn compare<'a>(
    shoal: &Shoal,
    world: &'a World,
    (policy, on_late, settings): (&'static str, OnLate, &str),
    overhead: Overhead,
    rounds: usize,
) -> anyhow::Result<Compared<'a>> {
    let folder = tempfile::tempdir()?;
    let (trace, texts) = world.trace();
    let (trace_at, texts_at) = (folder.path().join("trace.csv"), folder.path().join("texts.txt"));
    std::fs::write(&trace_at, trace)?;
    std::fs::write(&texts_at, texts)?;
    let load = load_arguments(world, &trace_at, &texts_at)?;
    let (mut real, mut simulated, mut others_sum, mut play) = (Vec::new(), Vec::new(), 0.0, [0.0f64; 2]);
    for _ in 0..rounds.max(1) {
        let server = shoal.serve(&world.settings(settings), &world.models(), world.workers(), Home::Empty)?;
        let others = Others::from_now(server.cpu_seconds()?)?;
        let loading = shoal.start_load(&server, &load)?;
        let away = world.kill.map(|at| kill(&server, world, at)).transpose()?;
        let figures = Figures::real(&loading.report()?);
        let others = others.share(server.cpu_seconds()?)?;
        others_sum += others;
        real.push(Round { figures, others });
        let scenario = away.map_or_else(|| world.scenario.clone(), |away| world.without_one(away));
        let figures = simulate(world, scenario.clone(), on_late, overhead);
        for factor in [0.75, 1.25] {
            let moved = simulate(world, scenario.clone(), on_late, overhead.times(factor));
            play[0] = play[0].max(error(moved.on_time, figures.on_time).abs());
            play[1] = play[1].max(error(moved.p99_ms, figures.p99_ms).abs());
        }
        simulated.push(Round { figures, others });
    }
    let ((real, is_quiet), (simulated, _)) = (quiet_median(&real, OTHERS_MAX), quiet_median(&simulated, OTHERS_MAX));
    Ok(Compared { world, policy, simulated, real, play, others: others_sum / rounds.max(1) as f64, is_quiet })
}

fn load_arguments(world: &World, trace: &Path, texts: &Path) -> anyhow::Result<Vec<String>> {
    Ok(arguments([
        ("--api", "infer".into()),
        ("--arrivals", "replay".into()),
        ("--trace", path(trace)?),
        ("--texts", path(texts)?),
        ("--warmup", format!("{}ms", WARMUP.as_millis())),
        ("--objective", format!("{}us", world.objective().as_micros())),
        ("--timeout", format!("{}s", TIMEOUT.as_secs())),
        // A connection carries 256 calls at once, and calls that wait for a connection would not wait where they are seen.
        ("--connections", "64".into()),
        ("--outstanding-max", "16384".into()),
    ]))
}

/// Kills a worker so long after the load began, and waits until it is back. When that was, in the scenario's time.
fn kill(server: &Server, world: &World, at: Duration) -> anyhow::Result<Absence> {
    let (began, models) = (Instant::now(), world.models());
    std::thread::sleep(at);
    let killed = began.elapsed();
    server.kill_worker()?;
    server.wait_for(&models, world.workers() - 1, TIMEOUT)?;
    server.wait_for(&models, world.workers(), TIMEOUT)?;
    let first = world.first().since(Timestamp::ZERO);
    Ok(Absence { from: first + killed, until: Some(first + began.elapsed()) })
}

/// The same in virtual time.
fn simulate(world: &World, mut scenario: Scenario, on_late: OnLate, overhead: Overhead) -> Figures {
    for worker in &mut scenario.workers {
        (worker.link, worker.link_row) = (overhead.link, overhead.link_row);
    }
    for model in &mut scenario.models {
        model.curve.base_ns += u64::try_from(overhead.oversleep.as_nanos()).unwrap_or(0);
    }
    for stream in &mut scenario.traffic {
        stream.deadline = Some(TIMEOUT);
    }
    let mut outcome = play(&scenario, |model| as_served(model, on_late));
    // Batches are not told apart by time, but what comes before the warm-up's end does not depend on what comes after.
    let warmup = Scenario { duration: world.first().since(Timestamp::ZERO) + WARMUP, ..scenario };
    let before = play(&warmup, |model| as_served(model, on_late));
    outcome.batches = outcome.batches.saturating_sub(before.batches);
    outcome.rows = outcome.rows.saturating_sub(before.rows);
    let rows = outcome.rows as f64 / outcome.batches.max(1) as f64;
    let hop = overhead.hop + overhead.hop_row.mul_f64(rows);
    Figures::simulated(&outcome, world.first() + WARMUP, world.objective(), hop)
}

/// What the server tells its core of a model, with the settings of [`World::settings`].
fn as_served(model: &ModelSpec, on_late: OnLate) -> ModelConfig {
    let policy = PolicyConfig::Learned { wait_price: 1, waits_when_idle: false, on_late };
    let limit = |number: u32| number.try_into().unwrap_or(std::num::NonZeroU32::MIN);
    ModelConfig {
        batch_rows_max: limit(BATCH_ROWS_MAX),
        batch_tokens_max: limit(BATCH_TOKENS_MAX),
        ..configure(model, policy)
    }
}

impl Overhead {
    /// So long that a worker asks for one batch at a time, as in the worlds.
    const BATCH: Duration = Duration::from_millis(20);

    /// The same, all so many times as long.
    fn times(self, factor: f64) -> Self {
        let Self { link, link_row, hop, hop_row, oversleep } = self;
        let [link, link_row, hop, hop_row, oversleep] =
            [link, link_row, hop, hop_row, oversleep].map(|time| time.mul_f64(factor));
        Self { link, link_row, hop, hop_row, oversleep }
    }

    /// Rows of the larger batches.
    const ROWS: u32 = 48;
    /// Calls a second for batches of some 24 rows: their answers come together, as in the worlds, and their requests do not.
    const RATE: u32 = 1_200;

    /// By small batches and by large ones.
    fn measure(shoal: &Shoal) -> anyhow::Result<Self> {
        // One batch runs, and the next one waits.
        let closed = |rows: u32| Besides::measure(shoal, rows, ("--concurrency", 2 * rows));
        let (small, large) = (closed(1)?, closed(Self::ROWS)?);
        let open = Besides::measure(shoal, Self::ROWS, ("--rate", Self::RATE))?;
        let gap_row_us = (large.gap_us - small.gap_us).max(0.0) / (large.rows - small.rows);
        let hop_of =
            |besides: &Besides| besides.gap_and_hop_us - small.gap_us - gap_row_us * (besides.rows - small.rows);
        let hop_row_us = (hop_of(&open) - hop_of(&small)).max(0.0) / (open.rows - small.rows);
        let micros = |us: f64| Duration::from_secs_f64(us.max(0.0) / 1e6);
        Ok(Self {
            link: micros((small.gap_us - gap_row_us) / 2.0),
            link_row: micros(gap_row_us / 2.0),
            hop: micros(hop_of(&small) - hop_row_us),
            hop_row: micros(hop_row_us),
            oversleep: micros(small.oversleep_us),
        })
    }
}

/// What batches of one size cost besides.
struct Besides {
    /// In the mean batch.
    rows: f64,
    /// How long the worker stands still between two batches, if it always has another.
    gap_us: f64,
    /// How much longer a call takes than its waiting and its batch.
    gap_and_hop_us: f64,
    oversleep_us: f64,
}

impl Besides {
    fn measure(shoal: &Shoal, rows_max: u32, (loop_is, number): (&str, u32)) -> anyhow::Result<Self> {
        let batch = Overhead::BATCH;
        let settings = format!(
            "[models.m0]\nsource = \"synthetic:base={}ns+per_row=0+per_token=0\"\npolicy = \"fixed\"\n\
             batch_rows_max = {rows_max}\n",
            batch.as_nanos()
        );
        let server = shoal.serve(&settings, &["m0".to_owned()], 1, Home::Empty)?;
        let load = [
            ("--api", "infer".into()),
            ("--model", "m0".into()),
            ("--duration", "4s".into()),
            ("--connections", "16".into()),
            (loop_is, number.to_string()),
        ];
        let report = shoal.load(&server, &arguments(load))?;
        let rows = report.batch_rows_mean.unwrap_or(1.0);
        // Medians, as one call in a hundred meets somebody else's work.
        let [latency_us, queue_us, compute_us] =
            [report.latency_us, report.queue_us, report.compute_us].map(|time| time.p50 as f64);
        Ok(Self {
            rows,
            gap_us: 1e6 * rows / report.rates.ok - report.compute_us.mean,
            gap_and_hop_us: latency_us - queue_us - compute_us,
            oversleep_us: compute_us - batch.as_micros() as f64,
        })
    }
}

impl std::fmt::Display for Overhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { link, link_row, hop, hop_row, oversleep } = self;
        write!(
            f,
            "one way to a worker {} µs and {} for each row, to the client and back {} µs and {} for each row of its batch, \
             {} µs slept too long",
            link.as_micros(),
            link_row.as_micros(),
            hop.as_micros(),
            hop_row.as_micros(),
            oversleep.as_micros()
        )
    }
}

impl Compared<'_> {
    fn goodput_error(&self) -> f64 {
        error(self.real.on_time, self.simulated.on_time)
    }

    fn p99_error(&self) -> f64 {
        error(self.real.p99_ms, self.simulated.p99_ms)
    }

    /// Whether both errors are within the limit, or within what the simulator itself leaves open.
    fn is_near(&self) -> bool {
        let [goodput, p99] = self.play.map(|play| play.max(ERROR_MAX));
        self.goodput_error().abs() <= goodput && self.p99_error().abs() <= p99
    }

    /// In one line, for who waits and for who looks for what is wrong.
    fn line(&self) -> String {
        let Self { policy, simulated, real, others, .. } = self;
        format!(
            "{}, {policy}: on time {:.2} and {:.2} %, p50 {:.1} and {:.1} ms, p99 {:.1} and {:.1} ms, batch {:.2} and {:.2}, \
             others {:.0} %",
            self.world.title(),
            simulated.on_time * 100.0,
            real.on_time * 100.0,
            simulated.p50_ms,
            real.p50_ms,
            simulated.p99_ms,
            real.p99_ms,
            simulated.batch,
            real.batch,
            others * 100.0,
        )
    }

    fn row(&self) -> Vec<String> {
        let Self { world, policy, simulated, real, play, others, is_quiet } = self;
        let per_second = |share: f64| format!("{:.1}", share * world.scenario.rate());
        let ms = |ms: f64| format!("{ms:.1}");
        let percent = |error: f64| format!("{:+.1} %", error * 100.0);
        vec![
            world.title(),
            (*policy).to_owned(),
            per_second(simulated.on_time),
            per_second(real.on_time),
            percent(self.goodput_error()),
            format!("{} / {}", ms(simulated.p50_ms), ms(real.p50_ms)),
            ms(simulated.p99_ms),
            ms(real.p99_ms),
            percent(self.p99_error()),
            format!("{:.1} %", play[1] * 100.0),
            format!("{:.2} / {:.2}", simulated.batch, real.batch),
            format!("{:.0} %{}", others * 100.0, if *is_quiet { "" } else { ", noisy" }),
        ]
    }
}

fn table(all: &[Compared<'_>]) -> Table {
    let mut table = Table::new([
        "world, load",
        "late",
        "goodput/s simulated",
        "real",
        "error",
        "p50 ms sim. / real",
        "p99 ms simulated",
        "real",
        "error",
        "play",
        "mean batch sim. / real",
        "others' CPU",
    ]);
    all.iter().for_each(|compared| table.push(compared.row()));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(on_time: f64, p99_ms: f64) -> Figures {
        Figures { on_time, p99_ms, p50_ms: 10.0, batch: 3.0, unanswered: 0.0 }
    }

    #[test]
    fn goodput_and_the_99th_percentile_must_both_be_near() {
        let worlds = worlds(Duration::from_secs(1), 1);
        let compared = |real| {
            let (world, simulated) = (&worlds[0], figures(0.8, 40.0));
            Compared { world, policy: "shed", simulated, real, play: [0.0, 0.12], others: 0.3, is_quiet: false }
        };
        assert!(compared(figures(0.84, 40.0)).is_near());
        assert!(!compared(figures(0.70, 40.0)).is_near(), "an eighth fewer on time");
        assert!(compared(figures(0.84, 35.5)).is_near(), "the simulator moves by 12 % itself");
        assert!(!compared(figures(0.84, 34.0)).is_near());
        let row = compared(figures(0.72, 42.0)).row();
        assert_eq!(row[0], "poisson-1w-1m at 0.3");
        assert_eq!((row[4].as_str(), row[8].as_str(), row[9].as_str()), ("-10.0 %", "+5.0 %", "12.0 %"));
        assert_eq!(row[11], "30 %, noisy");
        assert_eq!(table(&[compared(figures(0.8, 40.0))]).to_string().lines().count(), 3);
    }

    /// Simulated twice, a world that is not overloaded answers nearly all in time, and a slower link costs its time.
    #[test]
    fn a_slower_link_shows_in_the_simulated_figures() {
        let worlds = worlds(Duration::from_secs(6), 1);
        let world = &worlds[0];
        let run = |link_us| {
            let link = Duration::from_micros(link_us);
            let overhead = Overhead { link, hop: Duration::from_millis(1), ..Overhead::default() };
            simulate(world, world.scenario.clone(), OnLate::Serve, overhead)
        };
        let (near, far) = (run(0), run(500));
        assert!(near.on_time > 0.99 && near.p50_ms > 5.5, "{near:?}");
        assert!(far.p50_ms > near.p50_ms + 0.9, "{far:?} after {near:?}");
    }
}
