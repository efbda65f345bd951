//! Log-normal noise that a seed replays.

/// A source of noise factors.
#[derive(Debug)]
pub(super) struct Noise {
    state: u64,
    /// Standard deviation of the log of a factor.
    sigma: f64,
}

impl Noise {
    pub(super) fn new(seed: u64, sigma: f64) -> Self {
        Self { state: seed, sigma }
    }

    /// The next factor: its median is 1.
    pub(super) fn factor(&mut self) -> f64 {
        if self.sigma == 0.0 {
            return 1.0;
        }
        // Box-Muller; the first number is in (0, 1], so its log is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let angle = std::f64::consts::TAU * self.uniform();
        (self.sigma * radius * angle.cos()).exp()
    }

    /// Uniform in [0, 1), by SplitMix64 (Steele, Lea, Flood 2014).
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}
