//! What the emulator lets be is found by the sanitizers it is compiled with: see `worker/emulator/sanitize`.

use std::env;
use std::process::Command;

use shoal_emulator::{Argument, Emulator, Launch};

/// `address` or `thread`, where there is one.
const SANITIZER: &str = "SHOAL_EMULATOR_SANITIZER";

/// What a process is to run that may be ended for it: a probe, and the seed.
const PROBE: &str = "SHOAL_EMULATOR_PROBE";

fn launch(kernel: &str, seed: u64, with_barrier: usize) {
    let (input, mut output) = (vec![0_u32; 64], vec![0_u32; 256]);
    let mut arguments = vec![Argument::output(&mut output)];
    match kernel {
        "probe_plain_misaligned" => arguments.insert(0, Argument::input(&input)),
        "probe_overflow" => arguments.push(Argument::integer(1 << 20)),
        "probe_global_exchange" => arguments.push(Argument::integer(with_barrier)),
        _ => {}
    }
    let launch = Launch { kernel, grid: [2, 1, 1], block: 64, arguments };
    // SAFETY: the buffers live until the launch is over and are this function's alone, and what a probe does beyond them
    // ends the process; any bits are a number.
    unsafe { Emulator::new(seed).launch(&launch) }.expect("the emulator lets it be");
}

#[test]
#[ignore = "a sanitizer ends the process that runs it"]
fn a_probe() {
    let probe = env::var(PROBE).expect("the test that runs this names one");
    let (kernel, seed) = probe.split_once(' ').expect("a kernel and a seed");
    launch(kernel, seed.parse().expect("a seed is a number"), 0);
}

/// Runs a probe with three schedules, each in a process that must end with these words and the probe's name.
fn finds(sanitizer: &str, kernel: &str, words: &str) {
    for seed in 0..3 {
        let mut child = Command::new(env::current_exe().expect("this runs"));
        child.args(["--exact", "--ignored", "--no-capture", "sanitizers::a_probe"]);
        let output = child.env(PROBE, format!("{kernel} {seed}")).output().expect("it runs again");
        let told = String::from_utf8_lossy(&output.stderr);
        let is_found = told.contains(words) && told.contains("probes.cu") && !output.status.success();
        assert!(is_found, "{sanitizer}, {kernel}, {seed}: {told}");
    }
}

/// Whether the emulator is compiled with this sanitizer.
fn has(sanitizer: &str) -> bool {
    let has = env::var(SANITIZER).is_ok_and(|name| name == sanitizer);
    if !has {
        println!("skipped: not compiled with the {sanitizer} sanitizer");
    }
    has
}

#[test]
fn plain_accesses_and_what_is_undefined_are_found() {
    if has("address") {
        finds("address", "probe_plain_write", "heap-buffer-overflow");
        finds("address", "probe_plain_shared_write", "use-after-poison");
        finds("address", "probe_plain_misaligned", "misaligned address");
        finds("address", "probe_overflow", "signed integer overflow");
        finds("address", "probe_shift", "shift exponent");
    }
}

#[test]
fn races_in_global_memory_are_found_within_a_block_and_between_blocks() {
    if has("thread") {
        finds("thread", "probe_global_exchange", "data race");
        finds("thread", "probe_blocks_share", "data race");
    }
}

#[test]
fn a_barrier_orders_global_memory() {
    (0..3).for_each(|seed| launch("probe_global_exchange", seed, 1));
}
