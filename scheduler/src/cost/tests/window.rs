use crate::cost::tests::noise::Noise;
use crate::cost::window::Window;

#[test]
fn keeps_the_last_64_in_order() {
    let mut noise = Noise::new(1);
    let mut all = Vec::new();
    let mut window = Window::EMPTY;
    for _ in 0..2_000 {
        let ratio = noise.below(300); // often the same as another
        all.push(u16::try_from(ratio + 1).unwrap());
        window.push(ratio as f64 / 1_000.0 + 1e-9);
        let mut last = all[all.len().saturating_sub(64)..].to_vec();
        last.sort_unstable();
        assert_eq!(window.sorted(), last);
    }
}

#[test]
fn few_ratios_give_a_cautious_quantile() {
    let mut window = Window::EMPTY;
    let mut quantiles = Vec::new();
    for _ in 0..64 {
        window.push(1.0);
        quantiles.push(window.quantile(0.975));
    }
    assert!(quantiles[7] > 1.15, "{}", quantiles[7]);
    assert!(quantiles[63] < 1.01, "{}", quantiles[63]);
    assert!(quantiles.is_sorted_by(|earlier, later| earlier >= later), "{quantiles:?}");
}

#[test]
fn is_unbroken_by_ratios_out_of_range() {
    let mut window = Window::EMPTY;
    for ratio in [0.0, 1e300, f64::INFINITY] {
        window.push(ratio);
    }
    assert_eq!(window.sorted(), [1, u16::MAX, u16::MAX]);
}
