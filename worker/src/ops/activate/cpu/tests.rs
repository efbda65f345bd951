use super::*;
use crate::cpu::testing::on_all_vectors;
use crate::ops::activate::reference;

/// A function of a vector, for the arguments of `V::run` to be inlined into.
macro_rules! values {
    ($V:ident, $samples:expr, $function:expr) => {{
        let samples: Vec<f32> = $samples;
        let mut results = vec![0.0; samples.len()];
        for (x, y) in samples.chunks_exact($V::LANES).zip(results.chunks_exact_mut($V::LANES)) {
            // SAFETY: `on_all_vectors` looked whether the processor has the instructions; the chunks are a vector long.
            unsafe {
                $V::run(
                    #[inline(always)]
                    || $V::store(y.as_mut_ptr(), $function($V::load(x.as_ptr()))),
                );
            }
        }
        samples.into_iter().zip(results)
    }};
}

/// Evenly spread numbers, as many as make whole vectors.
fn spread(from: f32, to: f32) -> Vec<f32> {
    (0..1 << 15).map(|step| from + (to - from) * step as f32 / 32_767.0).collect()
}

/// Numbers of all sizes and both signs, and those where pieces of a bump meet.
fn everywhere() -> Vec<f32> {
    let mut samples = spread(-20.0, 20.0);
    samples.extend(spread(-1.0, 1.0));
    samples.extend(spread(-3e4, 3e4).iter().map(|x| x / 30.0));
    for step in 0..128 {
        let seam = step as f32 / 8.0;
        samples.extend([seam, seam.next_down(), seam.next_up(), -seam, -seam.next_down(), -seam.next_up()]);
        samples.extend([2f32.powi(-step), -(2f32.powi(-step))]);
    }
    samples.resize(samples.len().next_multiple_of(16), 0.0);
    samples
}

fn exact(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Gelu if x.abs() > 10.0 => x.max(0.0),
        Activation::Gelu => 0.5 * x * (1.0 + reference::erf(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
        Activation::Tanh => x.tanh(),
    }
}

/// Below it numbers lose bits.
const TINY: f64 = 1e-37;

fn activations_follow<V: Simd>() {
    for activation in Activation::ALL {
        for (x, y) in values!(V, everywhere(), |x| apply::<V, false>(activation, x)) {
            let error = (f64::from(y) - exact(activation, f64::from(x))).abs();
            assert!(error <= 1e-6 * f64::from(x.abs().max(1.0)), "{activation:?}({x}) is {y}");
            assert!(error <= 2e-6 * f64::from(x.abs()) + TINY, "{activation:?}({x}) is {y}, far for its size");
        }
    }
}

#[test]
fn activations_are_within_a_millionth_of_the_reference() {
    on_all_vectors!(activations_follow);
}

fn narrow_activations_follow<V: Simd>() {
    for activation in Activation::ALL {
        for (x, y) in values!(V, everywhere(), |x| apply::<V, true>(activation, x)) {
            let error = (f64::from(y) - exact(activation, f64::from(x))).abs();
            assert!(error <= 1e-4 * f64::from(x.abs().max(1.0)), "{activation:?}({x}) is {y}");
            assert!(error <= 1e-3 * f64::from(x.abs()) + TINY, "{activation:?}({x}) is {y}, far for its size");
        }
    }
}

#[test]
fn narrow_activations_are_well_within_the_rounding_to_bfloat16() {
    on_all_vectors!(narrow_activations_follow);
}

fn nan_stays<V: Simd>() {
    for activation in Activation::ALL {
        let nan = || vec![f32::NAN; V::LANES];
        assert!(values!(V, nan(), |x| apply::<V, false>(activation, x)).all(|(_, y)| y.is_nan()), "{activation:?}");
        assert!(values!(V, nan(), |x| apply::<V, true>(activation, x)).all(|(_, y)| y.is_nan()), "{activation:?}");
    }
}

#[test]
fn what_is_not_a_number_stays_none() {
    on_all_vectors!(nan_stays);
}

fn powers_follow<V: Simd>() {
    let relative = |found: f32, exact: f64| (f64::from(found) / exact - 1.0).abs();
    for (x, y) in values!(V, spread(-126.0, 126.9), |x| exp2::<V, false>(x)) {
        assert!(relative(y, f64::from(x).exp2()) < 2e-7, "exp2({x}) is {y}");
    }
    for (x, y) in values!(V, spread(-126.0, 126.9), |x| exp2::<V, true>(x)) {
        assert!(relative(y, f64::from(x).exp2()) < 1e-4, "narrow exp2({x}) is {y}");
    }
    for (x, y) in values!(V, spread(-87.0, 88.0), |x| exp::<V>(x)) {
        assert!(relative(y, f64::from(x).exp()) < 2.5e-7, "exp({x}) is {y}");
    }
}

#[test]
fn powers_are_within_their_stated_errors() {
    on_all_vectors!(powers_follow);
}

fn powers_have_ends<V: Simd>() {
    let far = || vec![f32::MIN; V::LANES];
    assert!(values!(V, far(), |x| exp2::<V, false>(x)).all(|(_, y)| (0.0..2e-38).contains(&y)));
    assert!(values!(V, far(), |x| exp2::<V, true>(x)).all(|(_, y)| (0.0..2e-38).contains(&y)));
    assert!(values!(V, far(), |x| exp::<V>(x)).all(|(_, y)| (0.0..2e-38).contains(&y)));
    assert!(values!(V, vec![f32::MAX; V::LANES], |x| exp::<V>(x)).all(|(_, y)| y.is_finite()));
}

#[test]
fn powers_of_numbers_far_below_zero_are_next_to_nothing() {
    on_all_vectors!(powers_have_ends);
}

fn erf_follows<V: Simd>() {
    for (x, y) in values!(V, spread(-6.0, 6.0), |x| erf::<V>(x)) {
        assert!((f64::from(y) - reference::erf(f64::from(x))).abs() < 4e-7, "erf({x}) is {y}");
    }
}

#[test]
fn erf_is_within_four_in_ten_million() {
    on_all_vectors!(erf_follows);
}
