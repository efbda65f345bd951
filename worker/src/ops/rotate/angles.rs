//! Cosines and sines, once for each place.

/// Of all places that were asked for. There are no more than the longest sequence so far had tokens.
#[derive(Clone, Debug)]
pub(crate) struct Angles {
    /// `base^(-2d/D)` for d below D/2
    frequencies: Vec<f32>,
    /// [P, D/2]
    cosines: Vec<f32>,
    /// [P, D/2]
    sines: Vec<f32>,
}

impl Angles {
    /// For heads of `width` numbers, which is even.
    pub(crate) fn new(width: usize, base: f32) -> Self {
        let of = |pair: usize| f64::from(base).powf(-2.0 * pair as f64 / width as f64) as f32;
        Self { frequencies: (0..width / 2).map(of).collect(), cosines: Vec::new(), sines: Vec::new() }
    }

    /// Makes those of so many places, if they are not there.
    pub(crate) fn reserve(&mut self, places: usize) {
        let half = self.frequencies.len();
        for place in self.cosines.len() / half.max(1)..places {
            let angles = self.frequencies.iter().map(|frequency| f64::from(place as f32 * frequency));
            self.cosines.extend(angles.clone().map(|angle| angle.cos() as f32));
            self.sines.extend(angles.map(|angle| angle.sin() as f32));
        }
    }

    /// Cosines and sines of a place, each D/2.
    ///
    /// # Panics
    /// If they were not made.
    pub(crate) fn at(&self, place: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        (&self.cosines[place * half..][..half], &self.sines[place * half..][..half])
    }

    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> usize {
        (self.cosines.len() + self.sines.len()) * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_grow_with_places_and_slow_down_with_pairs() {
        let mut angles = Angles::new(8, 1e4);
        angles.reserve(3);
        angles.reserve(1);
        assert_eq!((angles.at(0), angles.bytes()), ((&[1.0; 4][..], &[0.0; 4][..]), 3 * 4 * 2 * 4));
        for (pair, frequency) in [1.0f32, 0.1, 0.01, 0.001].into_iter().enumerate() {
            let (cosines, sines) = angles.at(2);
            assert!((cosines[pair] - (2.0 * frequency).cos()).abs() < 1e-6, "{cosines:?}");
            assert!((sines[pair] - (2.0 * frequency).sin()).abs() < 1e-6, "{sines:?}");
        }
    }
}
