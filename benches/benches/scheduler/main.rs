//! What a decision costs: the processor time of one request in, dispatched, answered, with so many others queued.
//!
//!     cargo bench -p shoal-benches --bench scheduler -- [WORDS OF A ROW]

mod world;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use shoal_scheduler::OnLate;

use world::{Arrivals, Load, Policy, Script, Seen};

/// The least of so many runs counts: the others were disturbed more.
const RUNS: usize = 5;

const PLAIN: Load = Load {
    policy: Policy::Learned(OnLate::Serve),
    models: 1,
    workers: 1,
    arrivals: Arrivals::Queued(10_000),
    objective: Duration::from_secs(1),
    has_classes: false,
};
/// So many workers are through with so many requests in a fiftieth of a second.
const WIDE: Load = Load { workers: 64, objective: Duration::from_millis(50), ..PLAIN };

fn rows() -> Vec<(&'static str, Load)> {
    let queued =
        |queued, millis| Load { arrivals: Arrivals::Queued(queued), objective: Duration::from_millis(millis), ..PLAIN };
    let models = |models| Load { models, ..WIDE };
    let workers = |workers| {
        let objective = Duration::from_millis(if workers < 8 { 1_000 } else { 200 });
        Load { models: 64, workers, objective, ..PLAIN }
    };
    let mut rows = vec![
        ("queue", queued(100, 50)),
        ("queue", queued(1_000, 150)),
        ("queue", queued(10_000, 1_000)),
        ("queue", queued(100_000, 10_000)),
    ];
    rows.extend([1, 16, 64, 256, 1_024].map(|n| ("models", models(n))));
    rows.extend([1, 8, 64, 256].map(|n| ("workers", workers(n))));
    rows.extend([
        ("fixed", Load { policy: Policy::Fixed, ..PLAIN }),
        ("classes", Load { has_classes: true, ..models(256) }),
        ("shallow", Load { arrivals: Arrivals::Percent(60), ..models(256) }),
        ("overload", Load { arrivals: Arrivals::Percent(150), objective: Duration::from_millis(500), ..PLAIN }),
        (
            "overload, shed",
            Load {
                policy: Policy::Learned(OnLate::Shed),
                arrivals: Arrivals::Percent(150),
                objective: Duration::from_millis(500),
                ..PLAIN
            },
        ),
        ("overload", Load { arrivals: Arrivals::Percent(150), ..models(256) }),
        (
            "overload, shed",
            Load { policy: Policy::Learned(OnLate::Shed), arrivals: Arrivals::Percent(150), ..models(256) },
        ),
    ]);
    rows
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

pub fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    println!("| row | models | workers | queued | requests/s | ns each | rows a batch | late | failed | closed |");
    for (name, load) in rows() {
        let label = format!("{name} {} {} {:?}", load.models, load.workers, load.arrivals);
        if !words.iter().all(|word| label.contains(word.as_str())) {
            continue;
        }
        let script = Script::record(load);
        let times = (0..RUNS).map(|_| {
            let (time, outputs) = script.replay(cpu);
            assert_eq!(outputs, script.seen.outputs, "{label}");
            time
        });
        let time = times.min().unwrap_or_default();
        let Seen { decided, batches, rows, late, failed, queued, ticks, .. } = script.seen;
        let each = time.as_nanos() as f64 / decided as f64;
        println!(
            "| {name} | {} | {} | {queued} | {:.0} | {each:.0} | {:.1} | {:.1} % | {:.1} % | {:?} {ticks} |",
            load.models,
            load.workers,
            1e9 / each,
            rows as f64 / batches as f64,
            100.0 * late as f64 / decided as f64,
            100.0 * failed as f64 / decided as f64,
            script.seen.closes,
        );
    }
}
