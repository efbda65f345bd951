use super::{W, gpu, mixed, taken};
use crate::cost::Costs;
use crate::cost::tests::noise::Noise;

/// The share of batches within the high estimate, after the first hundred, and how far above the middle that is.
fn coverage(seed: u64, deviation: f64, factor: impl Fn(u64, &mut Noise) -> f64) -> (f64, f64) {
    const BATCHES: u64 = 10_000;
    let mut noise = Noise::new(seed);
    let mut costs = Costs::new(None);
    let (mut within, mut room) = (0, 0.0);
    for batch in 0..BATCHES + 100 {
        let size = mixed(&mut noise);
        let share = factor(batch, &mut noise) * noise.factor(deviation);
        let taken = taken(&gpu(), size, share);
        if batch >= 100 {
            within += u64::from(taken <= costs.high(W[0], size));
            room += costs.high(W[0], size).as_nanos() as f64 / costs.expected(W[0], size).as_nanos() as f64;
        }
        costs.observe(W[0], size, taken);
    }
    (within as f64 / BATCHES as f64, room / BATCHES as f64)
}

fn assert_covers(what: &str, deviation: f64, room_max: f64, factor: impl Fn(u64, &mut Noise) -> f64) {
    for seed in 0..3 {
        let (within, room) = coverage(seed, deviation, &factor);
        assert!((0.965..0.985).contains(&within) && room < room_max, "{what}, {seed}: {within:.4}, {room:.3}");
    }
}

#[test]
fn high_covers_its_share_of_steady_batches() {
    assert_covers("2 % noise", 0.02, 1.06, |_, _| 1.0);
    assert_covers("10 % noise", 0.1, 1.30, |_, _| 1.0);
    assert_covers("30 % noise", 0.3, 2.0, |_, _| 1.0);
}

#[test]
fn high_covers_its_share_while_the_pace_drifts() {
    assert_covers("slowly up, then back at once", 0.1, 1.35, |batch, _| 1.0 + (batch % 4_000) as f64 / 2_000.0);
    assert_covers("up and down", 0.1, 1.35, |batch, _| 1.0 + (batch % 2_000).abs_diff(1_000) as f64 / 1_000.0);
    assert_covers("steps", 0.1, 1.40, |batch, _| if batch / 500 % 2 == 0 { 1.0 } else { 2.0 });
}

#[test]
fn high_covers_its_share_of_batches_with_a_tail() {
    assert_covers("one in 50 is a stall", 0.1, 2.5, |_, noise| if noise.below(50) == 0 { 3.0 } else { 1.0 });
    assert_covers("bursts of ten", 0.1, 1.6, |batch, _| if batch % 100 < 10 { 1.5 } else { 1.0 });
}

#[test]
fn high_of_a_clock_that_never_varies_is_hardly_more_than_the_middle() {
    let (within, room) = coverage(1, 0.0, |_, _| 1.0);
    assert!(within > 0.99 && room < 1.01, "{within:.4}, {room:.4}");
}
