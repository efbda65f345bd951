//! Kernels that break one rule each, with any schedule.

use shoal_emulator::{Argument, Emulator, Launch};

/// What the launch of a probe is refused for; the arguments are made anew for each schedule.
fn faults(kernel: &str, arguments: impl Fn(&mut [u32], &mut [u32]) -> Vec<Argument>) -> Vec<String> {
    let launch = |seed: u64| {
        let (mut input, mut output) = (vec![0; 64], vec![0; 256]);
        let arguments = arguments(&mut input, &mut output);
        let launch = Launch { kernel, grid: [2, 1, 1], block: 64, arguments };
        // SAFETY: the buffers live until the launch is over and are this closure's alone; any bits are a number.
        unsafe { Emulator::new(seed).launch(&launch) }.expect_err("each probe breaks a rule").to_string()
    };
    (0..6).map(launch).collect()
}

fn expect(faults: Vec<String>, words: &[&str]) {
    for fault in faults {
        assert!(words.iter().all(|word| fault.contains(word)), "{fault}");
    }
}

#[test]
fn threads_that_wait_at_different_barriers_are_told() {
    let faults = faults("probe_barrier_in_branch", |_, output| vec![Argument::output(output)]);
    expect(faults, &["different barriers", "probes.cu:", "probe_barrier_in_branch"]);
}

#[test]
fn a_shuffle_with_a_lane_that_has_ended_cannot_go_on() {
    let faults = faults("probe_absent_lane", |_, output| vec![Argument::output(output)]);
    expect(faults, &["no thread can go on", "__shfl_xor_sync"]);
}

#[test]
fn a_read_past_the_end_is_told_where_a_plain_run_would_see_nothing() {
    let faults = faults("probe_past_the_end", |input, output| vec![Argument::input(input), Argument::output(output)]);
    expect(faults, &["read of 4 bytes is outside every buffer", "thread 63"]);
}

#[test]
fn a_wide_read_must_be_aligned() {
    let faults = faults("probe_misaligned", |input, output| vec![Argument::input(input), Argument::output(output)]);
    expect(faults, &["read of 16 bytes is misaligned"]);
}

#[test]
fn an_input_is_not_written() {
    expect(faults("probe_write_to_input", |input, _| vec![Argument::input(input)]), &["writes to an input"]);
}

#[test]
fn shared_memory_holds_nothing_until_it_is_written() {
    let faults = faults("probe_unwritten", |_, output| vec![Argument::output(output)]);
    expect(faults, &["reads shared memory that nobody has written"]);
}

#[test]
fn a_write_after_a_read_needs_a_barrier_between() {
    let faults = faults("probe_write_after_read", |_, output| vec![Argument::output(output)]);
    expect(faults, &["with no barrier between"]);
}

#[test]
fn a_warp_may_exchange_by_shared_memory_with_a_barrier_of_its_own() {
    let arguments =
        |with: usize| move |_: &mut [u32], output: &mut [u32]| vec![Argument::output(output), Argument::integer(with)];
    for fault in faults("probe_exchange", arguments(0)) {
        assert!(fault.contains("no barrier between") || fault.contains("nobody has written"), "{fault}");
    }
    for seed in 0..6 {
        let mut output = vec![0; 64];
        let launch = Launch {
            kernel: "probe_exchange",
            grid: [1, 1, 1],
            block: 64,
            arguments: arguments(1)(&mut [], &mut output),
        };
        // SAFETY: the output lives until the launch is over and is this function's alone.
        unsafe { Emulator::new(seed).launch(&launch) }.unwrap();
        assert!((0..).zip(&output).all(|(thread, found)| *found == thread ^ 1), "{output:?}");
    }
}

#[test]
fn arguments_of_another_type_are_refused() {
    let faults = faults("pick", |input, output| {
        vec![Argument::input(input), Argument::real(1.0), Argument::output(output), Argument::integer(8)]
    });
    expect(faults, &["pick takes 4 arguments, not these"]);
    expect(self::faults("pack", |_, _| Vec::new()), &["there is no kernel pack"]);
}

#[test]
fn a_grid_of_no_blocks_is_refused_as_a_driver_does() {
    let (input, mut output) = (vec![0u32; 8], vec![0u32; 8]);
    let arguments =
        vec![Argument::input(&input), Argument::input(&input), Argument::output(&mut output), Argument::integer(8)];
    let launch = Launch { kernel: "pick", grid: [0, 1, 1], block: 64, arguments };
    // SAFETY: no block runs.
    let fault = unsafe { Emulator::new(0).launch(&launch) }.unwrap_err();
    assert!(fault.to_string().contains("a grid of 0 x 1 x 1 blocks"), "{fault}");
}
