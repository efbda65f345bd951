use super::*;
use crate::cuda::bench::Bench;
use crate::ops::emulation::Shapes;
use crate::ops::top::reference;

/// The best of each row, by the kernel.
fn top(rows: &[Vec<f32>], count: usize, seed: u64) -> Vec<Best> {
    let mut bench = Bench::new(seed);
    let top = Top {
        rows: rows.len(),
        vocabulary: rows[0].len(),
        count,
        logits: bench.put(&rows.concat()),
        output: bench.room::<u8>(rows.len() * bytes(count)),
    };
    bench.run(top.command()).unwrap_or_else(|fault| panic!("{fault}"));
    read(&bench.read(top.output), count).collect()
}

/// Runs the kernel and holds each row to the reference.
fn follows(what: &str, rows: &[Vec<f32>], count: usize, seed: u64) {
    for (row, found) in rows.iter().zip(top(rows, count, seed)) {
        let expected = reference::top(row, count);
        let bits = |best: &Best| -> Vec<_> {
            let kept = &best.entries[..count.min(row.len())];
            kept.iter().map(|(id, logit)| (*id, logit.to_bits())).collect()
        };
        assert_eq!(bits(&found), bits(&expected), "{what}, V {}, K {count}", row.len());
        assert_eq!(found.largest.to_bits(), expected.largest.to_bits(), "{what}");
        let off = (found.sum / expected.sum - 1.0).abs();
        assert!(off < 1e-6, "{what}, V {}: {}, not {}", row.len(), found.sum, expected.sum);
    }
}

/// Logits from -9 to 9, with few equal ones.
fn wave(count: usize, phase: f32) -> Vec<f32> {
    (0..count).map(|id| 9.0 * (id as f32 * 1.31 + (id as f32 * 0.017).powi(2) + phase).sin()).collect()
}

#[test]
fn follows_the_reference_for_any_vocabulary_and_count() {
    for (seed, vocabulary) in (0..).zip([1, 2, 31, 32, 33, 511, 512, 513, 2_047, 2_048, 2_049, 5_003]) {
        let rows: Vec<_> = (0..3).map(|row| wave(vocabulary, row as f32)).collect();
        for count in [1, 5, 32] {
            follows("wave", &rows, count, seed);
        }
    }
}

#[test]
fn follows_the_reference_at_any_shape_with_every_schedule() {
    for (seed, mut shapes) in Shapes::of_each_schedule() {
        let vocabulary = shapes.up_to(3_000);
        let rows: Vec<_> = (0..shapes.up_to(3)).map(|row| wave(vocabulary, row as f32 + 0.25)).collect();
        follows("any", &rows, shapes.up_to(32), seed);
    }
}

#[test]
fn of_equal_logits_the_lower_ids_are_better() {
    for seed in 0..3 {
        let ties: Vec<f32> = (0..1_500).map(|id| [1.5, -2.0, 1.5, 0.0, 1.0][id % 5]).collect();
        let zeros: Vec<f32> = (0..1_500).map(|id| if id % 7 == 3 { 0.0 } else { -0.0 }).collect();
        for count in [1, 4, 32] {
            follows("ties", &[ties.clone(), vec![-3.25; 1_500], zeros.clone()], count, seed);
        }
    }
}

#[test]
fn follows_the_reference_whatever_order_logits_are_in() {
    for seed in 0..3 {
        let rising: Vec<f32> = (0..3_000).map(|id| id as f32 / 100.0 - 20.0).collect();
        let falling: Vec<f32> = rising.iter().rev().copied().collect();
        let mut lone = vec![f32::NEG_INFINITY; 3_000];
        (lone[2_999], lone[17], lone[1_024]) = (-1e30, f32::MIN, -1e30);
        follows("ordered", &[rising, falling, lone], 32, seed);
    }
}

#[test]
fn what_a_small_vocabulary_lacks_is_no_entry() {
    let found = top(&[vec![0.5, 2.0]], 4, 0).remove(0);
    assert_eq!(found.entries[..2], [(1, 2.0), (0, 0.5)]);
    assert!(found.entries[2..].iter().all(|(id, logit)| *id == u32::MAX && logit.is_nan()));
}

#[test]
fn every_order_of_threads_gives_the_same_bits() {
    let rows = [wave(4_001, 0.5), wave(4_001, 2.5)];
    let first = top(&rows, 7, 0);
    assert!((1..6).all(|seed| top(&rows, 7, seed) == first));
}
