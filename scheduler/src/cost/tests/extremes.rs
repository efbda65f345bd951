use core::time::Duration;

use super::{W, even};
use crate::cost::tests::noise::Noise;
use crate::cost::{Costs, Curve, Size};

const HUGE: u64 = u64::MAX / 4;

/// Anything, often at an end of what there is.
fn any(noise: &mut Noise) -> u64 {
    match noise.below(5) {
        0 => 0,
        1 => HUGE,
        2 => noise.below(100),
        _ => noise.bits() >> noise.below(64),
    }
}

fn assert_sane(costs: &Costs, size: Size) {
    for size in [size, Size::default(), even(1, 1), Size { rows: HUGE, tokens: HUGE, squares: HUGE }] {
        let time = costs.curve().time(size);
        assert!(time.is_finite() && time >= 0.0, "{time} for {size:?} of {costs:?}");
        assert!(costs.curve().parts().iter().all(|part| part.is_finite() && *part >= 0.0), "{costs:?}");
        assert!(costs.high(W[0], size) >= costs.expected(W[0], size), "{size:?} of {costs:?}");
    }
}

#[test]
fn nothing_makes_it_negative_or_no_number() {
    for seed in 0..200 {
        let mut noise = Noise::new(seed);
        let mut part = || any(&mut noise) as f64;
        let prior = Curve::new(part(), part() / 1e9, part() / 1e18, part() / 1e30);
        let mut costs = Costs::new(if seed % 2 == 0 { Some(prior) } else { None });
        for batch in 0..100 {
            let size = Size { rows: any(&mut noise), tokens: any(&mut noise), squares: any(&mut noise) };
            let seconds = if batch % 10 == 0 { any(&mut noise) } else { 0 };
            costs.observe(W[0], size, Duration::new(seconds, (any(&mut noise) % 1_000_000_000) as u32));
            assert_sane(&costs, size);
            assert!(batch > 0 || costs.curve().is_known(), "{seed}: {size:?}");
        }
        // And it still learns.
        for _ in 0..400 {
            costs.observe(W[0], even(4, 50), Duration::from_millis(5));
        }
        let expected = costs.expected(W[0], even(4, 50)).as_secs_f64();
        assert!((expected / 0.005 - 1.0).abs() < 0.05, "{seed}: {expected}");
    }
}

#[test]
fn takes_batches_without_size_or_time() {
    let mut costs = Costs::new(None);
    for _ in 0..1_000 {
        costs.observe(W[0], Size::default(), Duration::ZERO);
        assert_sane(&costs, even(1, 1));
    }
    costs.observe(W[0], even(1, 1), Duration::MAX);
    assert_sane(&costs, even(1, 1));
}

#[test]
fn says_nothing_before_it_knows_anything() {
    let costs = Costs::new(None);
    assert!(!costs.curve().is_known());
    assert_eq!((costs.expected(W[0], even(1, 1)), costs.high(W[0], even(1, 1))), (Duration::ZERO, Duration::ZERO));
    assert_eq!(costs.samples(), 0);
}
