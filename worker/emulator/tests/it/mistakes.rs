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
const ATTEND: [(&str, usize); 2] = [("attend_32.bf16", 32), ("attend_128.bf16", 128)];
/// Those for f32, of which two blocks take a tile.
const ATTEND_F32: [(&str, usize); 2] = [("attend_f32_32", 32), ("attend_f32_96", 80)];

/// How far tokens look to either side: everywhere, or in a window.
const EVERYWHERE: usize = 1 << 30;
const WINDOW: usize = 9;

/// Tokens of sequences of 1, 65 and 130.
const TOKENS: usize = 196;
/// Their tiles.
const TILES: [[u32; 3]; 6] = [[0, 1, 0], [1, 66, 0], [1, 66, 64], [66, 196, 0], [66, 196, 64], [66, 196, 128]];

fn attend(emulator: &Emulator, (kernel, head): (&str, usize), reach: usize) -> Result<Vec<f32>, Fault> {
    let mut output = vec![bf16::NAN; TOKENS * HEADS * head];
    let qkv = wave(3 * output.len());
    let arguments = attend_arguments(&qkv, &mut output, head, reach);
    launch(emulator, kernel, [TILES.len() as u32, HEADS as u32, 1], 128, arguments)?;
    Ok(output.iter().map(|x| x.to_f32()).collect())
}

fn attend_f32(emulator: &Emulator, (kernel, head): (&str, usize), reach: usize) -> Result<Vec<f32>, Fault> {
    let mut output = vec![f32::NAN; TOKENS * HEADS * head];
    let qkv: Vec<f32> = wave(3 * output.len()).iter().map(|x| x.to_f32()).collect();
    let mut arguments = attend_arguments(&qkv, &mut output, head, reach);
    arguments.push(Argument::integer(head));
    launch(emulator, kernel, [2 * TILES.len() as u32, HEADS as u32, 1], 128, arguments)?;
    Ok(output)
}

fn attend_arguments<T>(qkv: &[T], output: &mut [T], head: usize, reach: usize) -> Vec<Argument> {
    vec![
        Argument::input(qkv),
        Argument::input(&TILES),
        Argument::output(output),
        Argument::integer(HEADS),
        Argument::integer(1),
        Argument::integer(reach),
        Argument::integer(reach),
        // So that what a wide head scores is not far above 0, which a key that is not there has.
        Argument::real(6.4 / head as f32 * std::f32::consts::LOG2_E),
    ]
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
    launch(emulator, "pool_f32.bf16", [2, 2, 1], 128, arguments)?;
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

/// Kernels of products of bytes: their tiles' sides, and threads.
const MULTIPLY: [(&str, usize, u32); 3] =
    [("multiply_int8_128", 128, 256), ("multiply_int8_64", 64, 128), ("multiply_int8_32", 32, 128)];

/// A tile and one row and some columns more, over more depth than all stages have, which ends within one.
fn multiply(emulator: &Emulator, (kernel, side, block): (&str, usize, u32)) -> Result<Vec<bf16>, Fault> {
    const DEPTH: usize = 5 * 64 + 16;
    let (rows, outputs) = (side + 1, side + 8);
    // What is beyond the edges is no zero.
    let bytes = |count: usize, from: usize| (0..count).map(move |at| (from + at * 37 % 101 + 1) as u8);
    let mut left: Vec<u8> = bytes((rows + side) * DEPTH, 3).collect();
    let right: Vec<u8> = bytes((outputs + side) * DEPTH, 11).collect();
    left[..DEPTH].fill(255);
    let ranges: Vec<f32> = (0..2 * (rows + side)).map(|at| if at % 2 == 0 { 0.01 } else { -0.5 }).collect();
    let columns = vec![0.02_f32; 2 * outputs];
    let mut output = wave(rows * outputs);
    let residual = output.clone();
    let arguments = vec![
        Argument::input(&left),
        Argument::input(&ranges),
        Argument::input(&right),
        Argument::input(&columns),
        Argument::nothing(),
        Argument::input(&residual),
        Argument::output(&mut output),
        Argument::integer(rows),
        Argument::integer(outputs),
        Argument::integer(DEPTH),
        Argument::integer(0),
    ];
    launch(emulator, kernel, [2, 2, 1], block, arguments)?;
    Ok(output)
}

/// Two rows, the second with what is no number, of a width that leaves their bytes to be filled up. Bytes, and ranges.
fn quantise(emulator: &Emulator) -> Result<(Vec<u8>, Vec<f32>), Fault> {
    const WIDTH: usize = 24;
    let mut input = wave(2 * WIDTH);
    input[WIDTH + 5] = bf16::NAN;
    let (mut bytes, mut ranges) = (vec![0xff; 2 * 32], vec![0.0_f32; 4]);
    let arguments = vec![
        Argument::input(&input),
        Argument::nothing(),
        Argument::output(&mut bytes),
        Argument::output(&mut ranges),
        Argument::integer(2),
        Argument::integer(WIDTH),
    ];
    launch(emulator, "quantise", [1, 1, 1], 128, arguments)?;
    Ok((bytes, ranges))
}

fn seeds(mistake: &str) -> impl Iterator<Item = Emulator> {
    (0..6).map(move |seed| Emulator::new(seed).with_mistake(mistake))
}

/// What attention comes to in every kernel.
fn attend_in_all(emulator: &Emulator, reach: usize) -> impl Iterator<Item = Result<Vec<f32>, Fault>> + use<> {
    let narrow = ATTEND.map(|kernel| attend(emulator, kernel, reach));
    narrow.into_iter().chain(ATTEND_F32.map(|kernel| attend_f32(emulator, kernel, reach)))
}

/// The same with a mistake, whatever the schedule.
fn attend_with(mistake: &str, reach: usize) -> impl Iterator<Item = Result<Vec<f32>, Fault>> {
    seeds(mistake).flat_map(move |emulator| attend_in_all(&emulator, reach))
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
    for emulator in seeds("attend_waits_for_the_tile_before") {
        for kernel in ATTEND {
            let fault = attend(&emulator, kernel, EVERYWHERE).unwrap_err().to_string();
            assert!(fault.contains("still being copied"), "{fault}");
        }
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
    let right: Vec<_> = attend_in_all(&Emulator::new(0), reach).collect();
    for attended in attend_with(mistake, reach).zip(right.iter().cycle()) {
        let (Ok(wrong), Ok(right)) = attended else { panic!("{mistake}: {attended:?}") };
        let apart = right.iter().zip(&wrong).map(|(right, wrong)| (right - wrong).abs());
        assert!(apart.fold(0.0, f32::max) > 0.1, "{mistake}");
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

/// What products of bytes come to with a mistake, whatever the schedule and the tile.
fn multiply_with(mistake: &str) -> impl Iterator<Item = Result<Vec<bf16>, Fault>> {
    seeds(mistake).flat_map(|emulator| MULTIPLY.map(|kernel| multiply(&emulator, kernel)))
}

#[test]
fn a_missing_barrier_between_copying_and_multiplying_is_found() {
    for multiplied in multiply_with("multiply_reads_before_all_have_copied") {
        let fault = multiplied.unwrap_err().to_string();
        let is_found = ["nobody has written", "no barrier between", "still being copied", "still to land"];
        assert!(is_found.iter().any(|words| fault.contains(words)), "{fault}");
    }
}

#[test]
fn a_wait_for_the_stage_before_is_found() {
    for multiplied in multiply_with("multiply_waits_for_the_stage_before") {
        let fault = multiplied.unwrap_err().to_string();
        assert!(fault.contains("still being copied"), "{fault}");
    }
}

#[test]
fn missing_barriers_around_sums_that_are_laid_down_are_found() {
    let mistakes = ["multiply_lays_down_before_all_have_read", "multiply_finishes_before_all_have_laid_down"];
    for multiplied in mistakes.into_iter().flat_map(multiply_with) {
        let fault = multiplied.unwrap_err().to_string();
        assert!(fault.contains("no barrier between") || fault.contains("nobody has written"), "{fault}");
    }
}

#[test]
fn depth_that_is_not_there_and_is_no_zero_is_seen_in_the_numbers_or_out_of_bounds() {
    let right = MULTIPLY.map(|kernel| multiply(&Emulator::new(0), kernel).unwrap());
    for (multiplied, right) in multiply_with("multiply_without_zeros").zip(right.iter().cycle()) {
        match multiplied {
            Ok(wrong) => assert_ne!(wrong, *right),
            Err(fault) => assert!(fault.to_string().contains("outside every buffer"), "{fault}"),
        }
    }
}

#[test]
fn what_is_no_number_and_is_forgotten_is_seen_in_the_ranges() {
    for emulator in seeds("quantise_forgets_what_is_no_number") {
        let (_, ranges) = quantise(&emulator).unwrap();
        assert!(ranges.iter().all(|x| x.is_finite()), "{ranges:?}");
    }
    let (_, ranges) = quantise(&Emulator::new(0)).unwrap();
    assert!(ranges[..2].iter().all(|x| x.is_finite()) && ranges[2].is_nan(), "{ranges:?}");
}

#[test]
fn ends_of_rows_that_are_left_are_seen_in_the_bytes() {
    let ends = |bytes: &[u8]| [&bytes[24..32], &bytes[56..]].concat();
    for emulator in seeds("quantise_leaves_the_end_of_rows") {
        assert_eq!(ends(&quantise(&emulator).unwrap().0), [0xff; 16]);
    }
    assert_eq!(ends(&quantise(&Emulator::new(0)).unwrap().0), [0; 16]);
}

#[test]
fn without_mistakes_every_schedule_gives_the_same_bits() {
    let attended = |seed| {
        [EVERYWHERE, WINDOW]
            .map(|reach| attend_in_all(&Emulator::new(seed), reach).map(Result::unwrap).collect::<Vec<_>>())
    };
    let pooled = |seed| pool(&Emulator::new(seed)).unwrap();
    let best = |seed| top(&Emulator::new(seed)).unwrap();
    let multiplied = |seed| MULTIPLY.map(|kernel| multiply(&Emulator::new(seed), kernel).unwrap());
    let bytes = |seed| quantise(&Emulator::new(seed)).unwrap().0;
    let all = |seed| (attended(seed), pooled(seed), best(seed), multiplied(seed), bytes(seed));
    let first = all(0);
    assert!((1..9).all(|seed| all(seed) == first));
}
