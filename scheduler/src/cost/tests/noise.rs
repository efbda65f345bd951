//! Random numbers for tests: xorshift64*, and noise made of products so that it needs no library.

/// A stream of random numbers.
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        (self.bits() >> 32) % end
    }

    /// From 0 to 1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Around 1, lognormal but for the far tails: eight factors whose logarithms have this deviation together.
    pub(super) fn factor(&mut self, deviation: f64) -> f64 {
        let half = deviation * 0.612; // √3 / √8: a uniform factor's deviation is its half width / √3
        (0..8).map(|_| 1.0 + half * (2.0 * self.unit() - 1.0)).product()
    }
}
