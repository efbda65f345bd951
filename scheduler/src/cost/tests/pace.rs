use core::time::Duration;

use super::{W, distance, even, gpu, mixed, ratio, taken};
use crate::cost::Costs;
use crate::cost::tests::noise::Noise;

/// Mixed batches, each on the next of `workers`, whose factors are given.
fn run(costs: &mut Costs, noise: &mut Noise, batches: usize, factors: &[f64]) {
    for batch in 0..batches {
        let worker = batch % factors.len();
        let size = mixed(noise);
        costs.observe(W[worker], size, taken(&gpu(), size, factors[worker] * noise.factor(0.1)));
    }
}

/// Each worker's expectation as a share of the true curve, averaged over a while.
fn factors(costs: &mut Costs, noise: &mut Noise, truth: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; truth.len()];
    for _ in 0..20 {
        run(costs, noise, truth.len(), truth);
        for (worker, sum) in sums.iter_mut().enumerate() {
            *sum += costs.expected(W[worker], even(16, 64)).as_nanos() as f64 / gpu().time(even(16, 64)) / 20.0;
        }
    }
    sums
}

#[test]
fn survives_a_slow_down_and_the_way_back() {
    for seed in 0..20 {
        let mut noise = Noise::new(seed);
        let mut costs = Costs::new(None);
        run(&mut costs, &mut noise, 300, &[1.0]);
        for factor in [2.0, 1.0, 2.0, 1.0] {
            run(&mut costs, &mut noise, 16, &[factor]);
            let (mean, _) = distance(|size| costs.expected(W[0], size).as_nanos() as f64 / factor, &gpu());
            assert!(mean < 0.15, "{seed}: {mean:.3} after 16 batches at {factor}");
            run(&mut costs, &mut noise, 40, &[factor]);
        }
    }
}

#[test]
fn a_sudden_change_is_followed_to_the_median_of_eight() {
    let mut costs = Costs::new(Some(gpu()));
    let size = even(8, 64);
    for _ in 0..50 {
        costs.observe(W[0], size, taken(&gpu(), size, 1.0));
    }
    for _ in 0..8 {
        costs.observe(W[0], size, taken(&gpu(), size, 40.0));
    }
    let after = ratio(&costs, size, &gpu());
    assert!((after - 40.0).abs() < 0.5, "{after:.2}");
    // How far it strays at this pace is not known yet.
    assert_eq!(costs.high(W[0], size).as_nanos() * 100 / costs.expected(W[0], size).as_nanos(), 150);
}

#[test]
fn one_outlier_moves_little() {
    let mut costs = Costs::new(Some(gpu()));
    let size = even(8, 64);
    for _ in 0..50 {
        costs.observe(W[0], size, taken(&gpu(), size, 1.0));
    }
    costs.observe(W[0], size, taken(&gpu(), size, 1_000.0));
    let after = ratio(&costs, size, &gpu());
    assert!(after < 1.5, "{after:.2}");
    for _ in 0..16 {
        costs.observe(W[0], size, taken(&gpu(), size, 1.0));
    }
    let after = ratio(&costs, size, &gpu());
    assert!((after - 1.0).abs() < 0.02, "{after:.3}");
}

#[test]
fn a_straggler_is_alone_in_it() {
    for seed in 0..10 {
        let mut noise = Noise::new(seed);
        let mut costs = Costs::new(None);
        run(&mut costs, &mut noise, 800, &[1.0; 4]);
        let before = costs.curve();
        let truth = [1.0, 1.0, 5.0, 1.0];
        run(&mut costs, &mut noise, 64, &truth);
        let (mean, worst) = distance(|size| costs.curve().time(size), &before);
        assert!(mean < 0.05 && worst < 0.10, "{seed}: the curve moved by {mean:.3}, {worst:.3}");
        run(&mut costs, &mut noise, 4_000, &truth);
        for (found, truth) in factors(&mut costs, &mut noise, &truth).iter().zip(truth) {
            assert!((found / truth - 1.0).abs() < 0.10, "{seed}: {found:.3} for {truth}");
        }
        let (mean, worst) = distance(|size| costs.curve().time(size), &gpu());
        assert!(mean < 0.08 && worst < 0.15, "{seed}: the curve is off by {mean:.3}, {worst:.3}");
    }
}

#[test]
fn what_two_workers_agree_on_is_the_models() {
    let new = |costs: &Costs| costs.expected(W[3], even(16, 64)).as_nanos() as f64 / gpu().time(even(16, 64));
    let mut noise = Noise::new(1);
    let mut costs = Costs::new(Some(gpu()));
    run(&mut costs, &mut noise, 200, &[1.0, 1.0]);
    run(&mut costs, &mut noise, 200, &[1.0, 3.0]);
    assert!((new(&costs) - 1.0).abs() < 0.1, "one is slow: {:.3}", new(&costs));
    run(&mut costs, &mut noise, 64, &[3.0, 3.0]);
    assert!((new(&costs) / 3.0 - 1.0).abs() < 0.1, "both are: {:.3}", new(&costs));
}

#[test]
fn a_forgotten_worker_starts_at_the_models_pace() {
    let mut noise = Noise::new(2);
    let mut costs = Costs::new(None);
    run(&mut costs, &mut noise, 800, &[1.0, 1.0, 1.0, 4.0]);
    let size = even(16, 64);
    assert!(costs.expected(W[3], size) > costs.expected(W[0], size) * 3);
    costs.forget(W[3]);
    assert_eq!(costs.expected(W[3], size), Duration::from_nanos(costs.curve().time(size) as u64));
    let high = costs.high(W[3], size).as_secs_f64() / costs.expected(W[3], size).as_secs_f64();
    assert!((high - 1.5).abs() < 1e-5, "{high}");
    assert_eq!(costs.samples(), 800);
}

/// It stalled, was given only what nobody else is, and is quick again.
#[test]
fn a_worker_far_from_the_others_pace_is_followed_and_teaches_nothing_of_the_model() {
    let mut costs = Costs::new(None);
    let (large, one) = (even(48, 64), even(1, 64));
    let mut noise = Noise::new(3);
    for _ in 0..200 {
        for worker in [W[0], W[1]] {
            let size = even(40 + noise.below(16), 64);
            costs.observe(worker, size, taken(&gpu(), size, 1.0));
        }
    }
    for _ in 0..20 {
        costs.observe(W[1], large, taken(&gpu(), large, 20.0));
        costs.observe(W[0], large, taken(&gpu(), large, 1.0));
    }
    assert!(costs.expected(W[1], large) > costs.expected(W[0], large) * 15);
    for _ in 0..30 {
        costs.observe(W[1], one, taken(&gpu(), one, 1.0));
        costs.observe(W[0], large, taken(&gpu(), large, 1.0));
    }
    let share = |worker| costs.expected(worker, large).as_nanos() as f64 / gpu().time(large);
    assert!((share(W[0]) - 1.0).abs() < 0.1, "{:.2}", share(W[0]));
    assert!(share(W[1]) < 1.6, "{:.2}", share(W[1]));
}

#[test]
fn constant_input_does_not_oscillate() {
    for start in [0.3, 1.0, 4.0] {
        let mut costs = Costs::new(Some(gpu().times(start)));
        let size = even(16, 64);
        let (mut last, mut variation) = (ratio(&costs, size, &gpu()), 0.0);
        for _ in 0..500 {
            costs.observe(W[0], size, taken(&gpu(), size, 1.0));
            let next = ratio(&costs, size, &gpu());
            variation += (next - last).abs();
            last = next;
        }
        assert!((last - 1.0).abs() < 1e-3, "{start}: {last}");
        assert!(variation < (start - 1.0f64).abs() * 1.2 + 1e-3, "{start}: {variation}");
    }
}
