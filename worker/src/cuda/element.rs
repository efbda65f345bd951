//! What numbers are kept as in a device's memory.

use std::fmt;

use half::{bf16, f16};

/// A kind of number, as kernels have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Element {
    Bf16,
    F16,
    F32,
}

impl Element {
    pub(crate) const ALL: [Self; 3] = [Self::Bf16, Self::F16, Self::F32];

    /// As kernels, cards and users have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// The largest number that is not rounded to an infinite one.
    pub(crate) fn largest(self) -> f32 {
        match self {
            Self::Bf16 | Self::F32 => f32::MAX,
            // Half a step above the largest there is.
            Self::F16 => 65_519.99,
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// Writes numbers one after the other, as many as there are and have room, rounded to the nearest.
    pub(crate) fn write(self, numbers: impl Iterator<Item = f32>, to: &mut [u8]) {
        match self {
            Self::Bf16 => put(numbers.map(|x| bf16::from_f32(x).to_le_bytes()), to),
            Self::F16 => put(numbers.map(|x| f16::from_f32(x).to_le_bytes()), to),
            Self::F32 => put(numbers.map(f32::to_le_bytes), to),
        }
    }

    pub(crate) fn read(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::Bf16 => bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
            Self::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        }
    }
}

fn put<const N: usize>(numbers: impl Iterator<Item = [u8; N]>, to: &mut [u8]) {
    to.as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(to, number)| *to = number);
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_up_to_the_largest_stay_finite() {
        for (number, is_finite) in [(Element::F16.largest(), true), (65_520.0, false)] {
            let mut bytes = [0; 2];
            Element::F16.write([number].into_iter(), &mut bytes);
            assert_eq!(Element::F16.read(&bytes)[0].is_finite(), is_finite, "{number}");
            assert_eq!(number <= Element::F16.largest(), is_finite, "{number}");
        }
    }

    #[test]
    fn numbers_come_back_rounded_to_their_kind() {
        for (element, expected) in [
            (Element::Bf16, [1.0, -0.100_097_656, 65_536.0, 0.0]),
            (Element::F16, [1.0, -0.099_975_586, f32::INFINITY, 5.960_464_5e-8]),
            (Element::F32, [1.0, -0.1, 65_521.0, 6e-8]),
        ] {
            let mut bytes = vec![0; 4 * element.bytes()];
            element.write([1.0, -0.1, 65_521.0, 6e-8].into_iter(), &mut bytes);
            let found = element.read(&bytes);
            if element == Element::Bf16 {
                assert_eq!(found[..3], expected[..3]);
            } else {
                assert_eq!(found, expected);
            }
        }
    }
}
