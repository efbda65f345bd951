use super::{W, distance, even, gpu, mixed, ratio, taken};
use crate::cost::tests::noise::Noise;
use crate::cost::{Costs, Curve, Size};

/// What mixed batches with 10 % noise lead to.
fn learn(prior: Option<Curve>, truth: &Curve, batches: usize, seed: u64) -> Costs {
    let mut costs = Costs::new(prior);
    more(&mut costs, truth, batches, seed);
    costs
}

fn more(costs: &mut Costs, truth: &Curve, batches: usize, seed: u64) {
    let mut noise = Noise::new(seed);
    for _ in 0..batches {
        let size = mixed(&mut noise);
        costs.observe(W[0], size, taken(truth, size, noise.factor(0.1)));
    }
}

/// How far predictions for worker 0 are off: the curve's error and that of the pace, which follows the last batches.
fn errors(costs: &Costs, truth: &Curve) -> (f64, f64) {
    distance(|size| costs.expected(W[0], size).as_nanos() as f64, truth)
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn finds_a_curve_in_noise() {
    let per_row = Curve::new(0.0, 1e6, 0.0, 0.0);
    let by_tokens = Curve::new(1e5, 0.0, 2e4, 30.0);
    let mostly_base = Curve::new(2e7, 1e5, 0.0, 0.0);
    for truth in [gpu(), by_tokens, mostly_base, per_row] {
        let found = (0..20).map(|seed| learn(None, &truth, 200, seed).curve());
        let errors = found.map(|found| distance(|size| found.time(size), &truth));
        let (mean, worst): (Vec<_>, Vec<_>) = errors.unzip();
        assert!(median(mean.clone()) < 0.05, "{truth:?}: {mean:.3?}");
        assert!(mean.iter().all(|error| *error < 0.08), "{truth:?}: {mean:.3?}");
        assert!(worst.iter().all(|error| *error < 0.25), "{truth:?}: {worst:.3?}");
    }
}

#[test]
fn recovers_from_a_wrong_prior() {
    let fifth = gpu().times(0.2);
    let five_times = gpu().times(5.0);
    let all_base = Curve::new(1e7, 0.0, 0.0, 0.0);
    let all_rows = Curve::new(0.0, 2e5, 0.0, 0.0);
    let all_squares = Curve::new(1.0, 0.0, 0.0, 20.0);
    for prior in [fifth, five_times, all_base, all_rows, all_squares] {
        let after = |batches| (0..20).map(move |seed| errors(&learn(Some(prior), &gpu(), batches, seed), &gpu()).0);
        assert!(after(16).all(|error| error < 0.20), "{prior:?}: {:.3?}", after(16).collect::<Vec<_>>());
        assert!(after(200).all(|error| error < 0.10), "{prior:?}: {:.3?}", after(200).collect::<Vec<_>>());
        assert!(median(after(200)) < 0.05, "{prior:?}: {:.3?}", after(200).collect::<Vec<_>>());
    }
}

#[test]
fn stays_sane_on_one_size_and_learns_from_others_when_they_come() {
    let base = Curve::new(5e6, 0.0, 0.0, 0.0);
    let tokens = Curve::new(0.0, 0.0, 1e3, 0.0);
    let squares = Curve::new(0.0, 0.0, 0.0, 10.0);
    let size = even(32, 64);
    for truth in [gpu(), base, tokens, squares] {
        let mut noise = Noise::new(3);
        let mut costs = Costs::new(None);
        for _ in 0..5_000 {
            costs.observe(W[0], size, taken(&truth, size, noise.factor(0.1)));
            let expected = |size| costs.expected(W[0], size).as_nanos() as f64;
            let (half, double) = (expected(even(16, 64)), expected(even(64, 64)));
            assert!((0.66..=0.84).contains(&(half / expected(size))), "half {half}");
            assert!((1.33..=1.67).contains(&(double / expected(size))), "double {double}");
        }
        let mut late = 0.0;
        for batch in 0..60 {
            let other = mixed(&mut noise);
            if batch >= 20 {
                late += (ratio(&costs, other, &truth) - 1.0).abs() / 40.0;
            }
            costs.observe(W[0], other, taken(&truth, other, noise.factor(0.1)));
        }
        assert!(late < 0.10, "{truth:?}: {late:.3}");
        let back = ratio(&costs, size, &truth);
        assert!((0.85..1.15).contains(&back), "{truth:?}: {back:.3}");
    }
}

#[test]
fn forgets_no_other_size_while_there_is_only_one() {
    let mut after = Vec::new();
    for seed in 0..10 {
        let mut costs = learn(None, &gpu(), 400, seed);
        let mut noise = Noise::new(seed + 100);
        for _ in 0..20_000 {
            costs.observe(W[0], even(4, 32), taken(&gpu(), even(4, 32), noise.factor(0.1)));
        }
        after.push(errors(&costs, &gpu()).1);
    }
    assert!(after.iter().all(|error| *error < 0.15), "{after:.3?}");
}

#[test]
fn predicts_a_burst_after_a_quiet_night() {
    // Single rows say nothing of how a row and the base share the time: that is as the prior has it.
    for seed in 0..10 {
        let mut noise = Noise::new(seed);
        let mut costs = Costs::new(Some(gpu()));
        for _ in 0..3_000 {
            let size = even(1, 8 + noise.below(200));
            costs.observe(W[0], size, taken(&gpu(), size, 1.2 * noise.factor(0.1)));
        }
        for size in [even(8, 50), even(64, 100)] {
            let ratio = ratio(&costs, size, &gpu().times(1.2));
            assert!((0.75..1.33).contains(&ratio), "{seed}: {size:?} {ratio:.3}");
        }
    }
}

#[test]
fn follows_a_model_whose_shape_changes() {
    let after = Curve::new(2e6, 4e4, 6e3, 4.0);
    let changed = |batches| {
        median((0..10).map(|seed| {
            let mut costs = learn(None, &gpu(), 400, seed);
            more(&mut costs, &after, batches, seed + 100);
            errors(&costs, &after).0
        }))
    };
    assert!(changed(100) < 0.25, "{:.3}", changed(100));
    assert!(changed(600) < 0.12, "{:.3}", changed(600));
}

#[test]
fn ends_at_the_same_curve_whatever_the_unit_of_size() {
    // Pixels as tokens: a million times as many, each for a millionth.
    let fine = |size: Size| Size { tokens: size.tokens * (1 << 20), ..size };
    let mut noise = Noise::new(5);
    let (mut coarse_costs, mut fine_costs) = (Costs::new(None), Costs::new(None));
    for _ in 0..300 {
        let size = mixed(&mut noise);
        let taken = taken(&gpu(), size, noise.factor(0.1));
        coarse_costs.observe(W[0], size, taken);
        fine_costs.observe(W[0], fine(size), taken);
    }
    let (mean, worst) = distance(|size| fine_costs.curve().time(fine(size)), &coarse_costs.curve());
    assert!(mean < 1e-3 && worst < 1e-3, "{mean} {worst}");
}
