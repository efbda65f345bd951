//! Cosines and sines, once for each place.

/// For all layers of a model, of which most turn alike.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables(Vec<Angles>);

impl Tables {
    /// Those of all rotations, each by the width of its heads and its base.
    pub(crate) fn of(rotations: impl Iterator<Item = (usize, f32)>) -> Self {
        let mut tables = Self::default();
        for (width, base) in rotations {
            if tables.find(width, base).is_none() {
                tables.0.push(Angles::new(width, base));
            }
        }
        tables
    }

    /// Makes those of so many places, if they are not there.
    pub(crate) fn reserve(&mut self, places: usize) {
        self.0.iter_mut().for_each(|angles| angles.reserve(places));
    }

    pub(crate) fn find(&self, width: usize, base: f32) -> Option<&Angles> {
        self.0.iter().find(|angles| angles.frequencies.len() == width / 2 && angles.base == base)
    }

    /// Bytes of so many places.
    pub(crate) fn bytes(&self, places: usize) -> usize {
        self.0.iter().map(|angles| 2 * angles.frequencies.len() * places * size_of::<f32>()).sum()
    }
}

/// Of all places that were asked for. There are no more than the longest sequence so far had tokens.
#[derive(Clone, Debug)]
pub(crate) struct Angles {
    base: f32,
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
        Self { base, frequencies: frequencies(width, base).collect(), cosines: Vec::new(), sines: Vec::new() }
    }

    /// Makes those of so many places, if they are not there.
    pub(crate) fn reserve(&mut self, places: usize) {
        let half = self.frequencies.len();
        let more = (places * half).saturating_sub(self.cosines.len());
        self.cosines.reserve_exact(more);
        self.sines.reserve_exact(more);
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
}

/// `base^(-2d/D)` for d below D/2: by how much the angle of a pair of numbers grows from place to place.
pub(crate) fn frequencies(width: usize, base: f32) -> impl Iterator<Item = f32> {
    (0..width / 2).map(move |pair| f64::from(base).powf(-2.0 * pair as f64 / width as f64) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_grow_with_places_and_slow_down_with_pairs() {
        let mut angles = Angles::new(8, 1e4);
        angles.reserve(3);
        angles.reserve(1);
        assert_eq!(angles.at(0), (&[1.0; 4][..], &[0.0; 4][..]));
        for (pair, frequency) in [1.0f32, 0.1, 0.01, 0.001].into_iter().enumerate() {
            let (cosines, sines) = angles.at(2);
            assert!((cosines[pair] - (2.0 * frequency).cos()).abs() < 1e-6, "{cosines:?}");
            assert!((sines[pair] - (2.0 * frequency).sin()).abs() < 1e-6, "{sines:?}");
        }
    }

    #[test]
    fn layers_that_turn_alike_share_a_table() {
        let mut tables = Tables::of([(8, 1e4), (8, 1e4), (8, 1e6), (6, 1e4)].into_iter());
        tables.reserve(5);
        assert_eq!(tables.bytes(5), 5 * 2 * (4 + 4 + 3) * 4);
        assert!(tables.find(8, 1e6).unwrap().at(4) != tables.find(8, 1e4).unwrap().at(4));
        assert!(tables.find(6, 1e6).is_none());
    }
}
