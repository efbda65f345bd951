//! Mistakes planted in the real kernels are found, whatever the schedule.

use half::bf16;
use shoal_emulator::{Argument, Emulator, Fault, Launch};

const HEADS: usize = 2;

fn wave(count: usize) -> Vec<bf16> {
    (0..count).map(|index| bf16::from_f32((index as f32 * 0.37).sin())).collect()
}

fn launch(
    emulator: &Emulator,
    kernel: &str,
    grid: [u32; 3],
    block: u32,
    arguments: Vec<Argument>,
) -> Result<(), Fault> {
    // SAFETY: the arguments are made of what the callers own until this returns; any bits are values of these types.
    unsafe { emulator.launch(&Launch { kernel, grid, block, arguments }) }
}

/// Kernels whose keys come 64 and 32 at a time, and the width of their heads.
const ATTEND: [(&str, usize); 2] = [("attend_32", 32), ("attend_128", 128)];

/// How far tokens look to either side: everywhere, or in a window.
const EVERYWHERE: usize = 1 << 30;
const WINDOW: usize = 9;

/// Sequences of 1, 65 and 130 tokens.
fn attend(emulator: &Emulator, (kernel, head): (&str, usize), reach: usize) -> Result<Vec<bf16>, Fault> {
    let tiles: [[u32; 3]; 6] = [[0, 1, 0], [1, 66, 0], [1, 66, 64], [66, 196, 0], [66, 196, 64], [66, 196, 128]];
    let mut output = vec![bf16::NAN; 196 * HEADS * head];
    let qkv = wave(3 * output.len());
    let arguments = vec![
        Argument::input(&qkv),
        Argument::input(&tiles),
        Argument::output(&mut output),
        Argument::integer(HEADS),
        Argument::integer(1),
        Argument::integer(reach),
        Argument::integer(reach),
        // So that what a wide head scores is not far above 0, which a key that is not there has.
        Argument::real(6.4 / head as f32 * std::f32::consts::LOG2_E),
    ];
    launch(emulator, kernel, [tiles.len() as u32, HEADS as u32, 1], 128, arguments)?;
    Ok(output)
}

fn pool(emulator: &Emulator) -> Result<Vec<f32>, Fault> {
    const WIDTH: usize = 264;
    let (input, splits, mut output) = (wave(9 * WIDTH), [0_u32, 1, 9], vec![f32::NAN; 2 * WIDTH]);
    let arguments = vec![
        Argument::input(&input),
        Argument::input(&splits),
        Argument::output(&mut output),
        Argument::integer(WIDTH),
        Argument::integer(0),
    ];
    launch(emulator, "pool_f32", [2, 2, 1], 128, arguments)?;
    Ok(output)
}

/// Three tokens of a head of queries and one of keys and values each.
fn rotate(emulator: &Emulator) -> Result<Vec<bf16>, Fault> {
    const WIDTH: usize = 64;
    let (qkv, places) = (wave(3 * 3 * WIDTH), [0_u32, 1, 70]);
    let mut output = vec![bf16::NAN; qkv.len()];
    let mut arguments = vec![Argument::input(&qkv), Argument::input(&places)];
    for _ in 0..2 {
        let norm = [Argument::nothing(), Argument::nothing(), Argument::real(0.0), Argument::integer(0)];
        arguments.extend(norm);
    }
    arguments.push(Argument::output(&mut output));
    // Tokens, heads of queries, of keys, and all that are written; a head's width, and lanes that have it.
    arguments.extend([3, 1, 1, 3, WIDTH, 4].map(Argument::integer));
    arguments.extend([-0.4, 0.0].map(Argument::real));
    launch(emulator, "rotate", [1, 1, 1], 256, arguments)?;
    Ok(output)
}

fn top(emulator: &Emulator) -> Result<Vec<u32>, Fault> {
    const COUNT: usize = 3;
    let logits: Vec<f32> = wave(2 * 600).iter().map(|logit| logit.to_f32()).collect();
    let mut output = vec![0; 2 * (2 + 2 * COUNT)];
    let arguments =
        vec![Argument::input(&logits), Argument::output(&mut output), Argument::integer(600), Argument::integer(COUNT)];
    launch(emulator, "top", [2, 1, 1], 512, arguments)?;
    Ok(output)
}

fn seeds(mistake: &str) -> impl Iterator<Item = Emulator> {
    (0..6).map(move |seed| Emulator::new(seed).with_mistake(mistake))
}

/// What attention comes to with a mistake, whatever the schedule and the kernel.
fn attend_with(mistake: &str, reach: usize) -> impl Iterator<Item = Result<Vec<bf16>, Fault>> {
    seeds(mistake).flat_map(move |emulator| ATTEND.map(|kernel| attend(&emulator, kernel, reach)))
}

#[test]
fn a_missing_barrier_before_keys_are_read_is_found() {
    for attended in attend_with("attend_reads_before_all_have_copied", EVERYWHERE) {
        let fault = attended.unwrap_err().to_string();
        assert!(fault.contains("ldmatrix") || fault.contains("read of 16 bytes"), "{fault}");
    }
}

#[test]
fn a_missing_barrier_before_keys_are_copied_over_is_found() {
    for attended in attend_with("attend_copies_before_all_have_read", EVERYWHERE) {
        let fault = attended.unwrap_err().to_string();
        assert!(fault.contains("no barrier between") || fault.contains("still being copied"), "{fault}");
    }
}

#[test]
fn a_wait_for_too_few_copies_is_found() {
    for attended in attend_with("attend_waits_for_the_tile_before", EVERYWHERE) {
        let fault = attended.unwrap_err().to_string();
        assert!(fault.contains("still being copied"), "{fault}");
    }
}

#[test]
fn keys_that_are_not_masked_are_seen_in_the_numbers() {
    for reach in [EVERYWHERE, WINDOW] {
        differs("attend_without_mask", reach);
    }
}

#[test]
fn keys_of_a_window_that_do_not_come_are_seen_in_the_numbers() {
    differs("attend_begins_a_tile_late", WINDOW);
}

#[test]
fn rows_that_have_seen_no_key_yet_are_no_numbers_if_nothing_is_done_about_them() {
    for attended in attend_with("attend_begins_at_minus_infinity", WINDOW) {
        assert!(attended.unwrap().iter().any(|x| x.is_nan()));
    }
}

/// Fails unless a mistake that no rule is broken by makes attention far from right.
fn differs(mistake: &str, reach: usize) {
    let right = ATTEND.map(|kernel| attend(&Emulator::new(0), kernel, reach));
    for attended in attend_with(mistake, reach).zip(right.iter().cycle()) {
        let (Ok(wrong), Ok(right)) = attended else { panic!("{mistake}: {attended:?}") };
        let apart = right.iter().zip(&wrong).map(|(right, wrong)| (right.to_f32() - wrong.to_f32()).abs());
        assert!(apart.fold(0.0, f32::max) > 0.1, "{mistake}");
    }
}

#[test]
fn a_missing_barrier_before_angles_are_made_is_found() {
    for emulator in seeds("rotate_without_barrier") {
        let fault = rotate(&emulator).unwrap_err().to_string();
        assert!(fault.contains("nobody has written") || fault.contains("no barrier between"), "{fault}");
    }
}

#[test]
fn a_missing_barrier_before_sums_are_joined_is_found() {
    for emulator in seeds("pool_without_barrier") {
        let fault = pool(&emulator).unwrap_err().to_string();
        assert!(fault.contains("nobody has written") || fault.contains("no barrier between"), "{fault}");
    }
}

#[test]
fn a_missing_barrier_before_the_best_are_joined_is_found() {
    for emulator in seeds("top_without_barrier") {
        let fault = top(&emulator).unwrap_err().to_string();
        assert!(fault.contains("nobody has written") || fault.contains("no barrier between"), "{fault}");
    }
}

#[test]
fn without_mistakes_every_schedule_gives_the_same_bits() {
    let attended = |seed| {
        [EVERYWHERE, WINDOW].map(|reach| ATTEND.map(|kernel| attend(&Emulator::new(seed), kernel, reach).unwrap()))
    };
    let rotated = |seed| rotate(&Emulator::new(seed)).unwrap();
    let pooled = |seed| pool(&Emulator::new(seed)).unwrap();
    let best = |seed| top(&Emulator::new(seed)).unwrap();
    let all = |seed| (attended(seed), rotated(seed), pooled(seed), best(seed));
    let first = all(0);
    assert!((1..9).all(|seed| all(seed) == first));
}
