//! Mistakes planted in the real kernels are found, whatever the schedule.

use half::bf16;
use shoal_emulator::{Attend, Emulator, Fault, Pool, Pooled, Pooling, tiles};

const HEADS: usize = 2;

fn wave(count: usize) -> Vec<bf16> {
    (0..count).map(|index| bf16::from_f32((index as f32 * 0.37).sin())).collect()
}

/// Sequences of 1, 65 and 130 tokens.
fn attend(emulator: &Emulator) -> Result<Vec<bf16>, Fault> {
    let splits = [0, 1, 66, 196];
    let mut output = vec![bf16::NAN; 196 * HEADS * 32];
    let qkv = wave(3 * output.len());
    Attend { qkv: &qkv, tiles: &tiles(&splits), heads: HEADS, head: 32, scale: 0.2, output: &mut output }
        .run(emulator)?;
    Ok(output)
}

fn pool(emulator: &Emulator) -> Result<Vec<f32>, Fault> {
    let mut output = vec![f32::NAN; 2 * 264];
    let pooled = Pooled::F32(&mut output);
    Pool { input: &wave(9 * 264), splits: &[0, 1, 9], width: 264, pooling: Pooling::Mean, output: pooled }
        .run(emulator)?;
    Ok(output)
}

fn seeds(mistake: &str) -> impl Iterator<Item = Emulator> {
    (0..6).map(move |seed| Emulator::new(seed).with_mistake(mistake))
}

#[test]
fn a_missing_barrier_before_keys_are_read_is_found() {
    for emulator in seeds("attend_reads_before_all_have_copied") {
        let fault = attend(&emulator).unwrap_err().to_string();
        assert!(fault.contains("ldmatrix") || fault.contains("read of 16 bytes"), "{fault}");
    }
}

#[test]
fn a_missing_barrier_before_keys_are_copied_over_is_found() {
    for emulator in seeds("attend_copies_before_all_have_read") {
        let fault = attend(&emulator).unwrap_err().to_string();
        assert!(fault.contains("no barrier between") || fault.contains("still being copied"), "{fault}");
    }
}

#[test]
fn a_wait_for_too_few_copies_is_found() {
    for emulator in seeds("attend_waits_for_the_tile_before") {
        let fault = attend(&emulator).unwrap_err().to_string();
        assert!(fault.contains("still being copied"), "{fault}");
    }
}

#[test]
fn keys_that_are_not_masked_are_seen_in_the_numbers() {
    for emulator in seeds("attend_without_mask") {
        let right = attend(&Emulator::new(0)).unwrap();
        let wrong = attend(&emulator).unwrap();
        let apart = right.iter().zip(&wrong).map(|(right, wrong)| (right.to_f32() - wrong.to_f32()).abs());
        assert!(apart.fold(0.0, f32::max) > 0.1);
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
fn without_mistakes_every_schedule_gives_the_same_bits() {
    let (attended, pooled) = (attend(&Emulator::new(0)).unwrap(), pool(&Emulator::new(0)).unwrap());
    for seed in 1..9 {
        assert_eq!(attend(&Emulator::new(seed)).unwrap(), attended);
        assert_eq!(pool(&Emulator::new(seed)).unwrap(), pooled);
    }
}
