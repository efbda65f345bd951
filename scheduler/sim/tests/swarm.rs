//! Many worlds, each with its own parameters and its own subset of faults.
//!
//! `SHOAL_SIM_SEEDS=50000` runs so many; `SHOAL_SIM_SEED=17` runs one and prints its transcript.

use std::collections::BTreeMap;
use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use shoal_scheduler::{Input, Output};
use shoal_sim::{Plan, Transcript, What, run};

const SEEDS: u64 = 1_000;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// How often each kind of thing happened.
type Coverage = BTreeMap<String, u64>;

fn count(transcript: &Transcript, coverage: &mut Coverage) {
    for entry in &transcript.0 {
        let kind = match &entry.what {
            What::Told(Input::BatchFailed { reason, .. }) => format!("batch failed: {reason:?}"),
            What::Told(Input::WorkerDown { cause, .. }) => format!("worker down: {cause:?}"),
            What::Did(Output::Dispatch(dispatch)) => format!("closed: {:?}", dispatch.close),
            What::Did(Output::Fail { why, .. }) => format!("failed: {}", first_word(&format!("{why:?}"))),
            What::Did(Output::Reject { why, .. }) => format!(
                "refused: {}",
                format!("{why:?}").replace(", retry", "{").split('{').take(2).collect::<String>()
            ),
            What::Did(output) => format!("did: {}", first_word(&format!("{output:?}"))),
            What::Finished(counts) if counts.replies_dropped > 0 => "runs with stale replies".into(),
            What::Finished(counts) if counts.clock_reversals > 0 => "runs with clock reversals".into(),
            _ => continue,
        };
        *coverage.entry(kind).or_default() += 1;
    }
}

fn first_word(text: &str) -> &str {
    text.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or(text)
}

/// Runs one world; prints how to run it again when it goes wrong.
fn check(seed: u64, coverage: &mut Coverage) -> bool {
    let run = run(Plan::draw(seed));
    count(&run.transcript, coverage);
    if let Err(violation) = &run.verdict {
        println!("SEED={seed} {violation}");
        println!("SHOAL_SIM_SEED={seed} cargo test -p shoal-sim --test swarm one_seed -- --nocapture");
    }
    run.verdict.is_ok()
}

#[test]
fn every_world_keeps_the_contract() {
    let seeds = number("SHOAL_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(2, |threads| threads.get());
    let work = || {
        let (mut bad, mut coverage) = (0, Coverage::new());
        while bad < 5 {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            bad += u64::from(!check(seed, &mut coverage));
        }
        (bad, coverage)
    };
    let (mut bad, mut coverage) = (0, Coverage::new());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for (found, seen) in workers.into_iter().map(|worker| worker.join().unwrap()) {
            bad += found;
            seen.into_iter().for_each(|(kind, times)| *coverage.entry(kind).or_default() += times);
        }
    });
    println!("{coverage:#?}");
    assert_eq!(bad, 0, "worlds that broke the contract, of {seeds}");
}

#[test]
fn one_seed() {
    if let Some(seed) = number("SHOAL_SIM_SEED") {
        let plan = Plan::draw(seed);
        println!("{plan:#?}");
        let run = run(plan);
        println!("{}hash {:#018x}", run.transcript, run.transcript.hash());
        assert_eq!(run.verdict, Ok(()));
    }
}
