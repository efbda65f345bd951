//! What a decision costs: the processor time of one request in, dispatched and answered, with so many others queued.
//!
//!     cargo bench -p shoal-benches --bench scheduler -- [WORDS OF A ROW]...
//!
//! Prints the table of `server/docs/batching.md`; words choose rows, as in `'queue, 1 models'`. A world of clients and
//! workers lives through each load once and writes down what it says to the scheduler; what is timed is a second scheduler
//! that is told the same, so that the world itself costs nothing. Time of the processor and not of the clock, because the
//! machine may be shared.

mod world;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use shoal_scheduler::OnLate;

use self::world::{Arrivals, Load, Policy, Script, Seen};

const PLAIN: Load = Load {
    policy: Policy::Learned(OnLate::Serve),
    models: 1,
    workers: 1,
    arrivals: Arrivals::Queued(10_000),
    objective: Duration::from_secs(1),
    has_classes: false,
    counted: 100_000,
};
/// So many workers need a seventh of it for what is queued.
const WIDE: Load = Load { workers: 64, objective: Duration::from_millis(50), ..PLAIN };
/// Half as much again as the worker can take.
const OVERLOAD: Load =
    Load { arrivals: Arrivals::Percent(150), objective: Duration::from_millis(500), counted: 15_000, ..PLAIN };

/// What a row is there to show.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// All are on time.
    Plain,
    /// Some are.
    Late,
}

fn rows() -> Vec<(&'static str, Kind, Load)> {
    let queued = |queued, millis| {
        let objective = Duration::from_millis(millis);
        ("queue", Kind::Plain, Load { arrivals: Arrivals::Queued(queued), objective, ..PLAIN })
    };
    let models = |models| ("models", Kind::Plain, Load { models, ..WIDE });
    let workers = |workers| {
        let objective = Duration::from_millis(if workers < 8 { 1_000 } else { 200 });
        ("workers", Kind::Plain, Load { models: 64, workers, objective, ..PLAIN })
    };
    let mut rows = vec![queued(100, 50), queued(1_000, 150), queued(10_000, 1_000), queued(100_000, 10_000)];
    rows.extend([1, 16, 64, 256, 1_024].map(models));
    rows.extend([1, 8, 64, 256].map(workers));
    let shed = Policy::Learned(OnLate::Shed);
    rows.extend([
        ("fixed", Kind::Plain, Load { policy: Policy::Fixed, ..PLAIN }),
        ("little asked", Kind::Plain, Load { models: 256, arrivals: Arrivals::Percent(60), ..WIDE }),
        ("three classes", Kind::Late, Load { models: 256, has_classes: true, ..WIDE }),
        ("overload", Kind::Late, OVERLOAD),
        ("overload, shed", Kind::Late, Load { policy: shed, ..OVERLOAD }),
    ]);
    rows
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    println!("| what | models | workers | queued | requests/s | ns each | rows a batch | late | refused |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for (what, kind, load) in rows() {
        let Load { models, workers, arrivals, .. } = load;
        let label = format!("{what}, {models} models, {workers} workers, {arrivals:?}");
        if words.iter().all(|word| label.contains(word.as_str())) {
            measure(what, kind, load);
        }
    }
}

fn measure(what: &str, kind: Kind, load: Load) {
    let script = Script::record(load);
    let Seen { decided, batches, rows, late, failed, queued, outputs, .. } = script.seen;
    assert!(kind == Kind::Late || late + failed == 0, "{what}: {late} late and {failed} refused where none should be");
    assert!(kind == Kind::Plain || late + failed > decided / 100, "{what}: hardly anybody is late");
    // The least of several counts: the others were disturbed more.
    let time = |_| {
        let (time, said) = script.replay(processor_time);
        assert_eq!(said, outputs, "{what}: told the same, a scheduler says the same");
        time
    };
    let runs = if kind == Kind::Plain { 5 } else { 2 };
    let time = (0..runs).map(time).min().unwrap_or_default();
    let each = time.as_nanos() as u64 / decided.max(1);
    let share = |part: u64| format!("{:.1} %", 100.0 * part as f64 / decided as f64);
    println!(
        "| {what} | {} | {} | {queued} | {} | {each} | {:.1} | {} | {} |",
        load.models,
        load.workers,
        1_000_000_000 / each.max(1) / 1_000 * 1_000,
        rows as f64 / batches.max(1) as f64,
        share(late),
        share(failed),
    );
}
