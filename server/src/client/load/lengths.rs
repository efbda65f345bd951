//! How many tokens the texts have that are made for a load.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// Lengths and ranges of lengths, each as likely as the others, and within a range each length as likely. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths(Vec<RangeInclusive<u32>>);

impl Lengths {
    /// Longest text.
    pub(super) const MAX: u32 = 65_536;

    pub(super) fn draw(&self, random: &mut StdRng) -> u32 {
        let range = &self.0[random.random_range(0..self.0.len())];
        random.random_range(range.clone())
    }
}

impl FromStr for Lengths {
    type Err = LengthsError;

    fn from_str(text: &str) -> Result<Self, LengthsError> {
        let length = |text: &str| text.trim().parse().ok().filter(|tokens| (1..=Self::MAX).contains(tokens));
        let range = |item: &str| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let range = length(first)?..=length(last)?;
            (!range.is_empty()).then_some(range)
        };
        let wrong = |item: &str| LengthsError { item: item.trim().to_owned() };
        text.split(',').map(|item| range(item).ok_or_else(|| wrong(item))).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// Text that is no [`Lengths`].
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{item}` is no length from 1 to 65,536 and no range of such, as in `8-256` or `16,128`")]
pub struct LengthsError {
    /// The part that is wrong.
    pub item: String,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::Lengths;

    fn counts(lengths: &str) -> BTreeMap<u32, u32> {
        let (lengths, mut random) = (lengths.parse::<Lengths>().unwrap(), StdRng::seed_from_u64(1));
        let mut counts = BTreeMap::new();
        (0..30_000).for_each(|_| *counts.entry(lengths.draw(&mut random)).or_default() += 1);
        counts
    }

    #[test]
    fn a_range_gives_each_of_its_lengths_as_often() {
        let counts = counts("8-12");
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [8, 9, 10, 11, 12]);
        assert!(counts.values().all(|count| (5_700..6_300).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_list_gives_each_of_its_items_as_often() {
        assert_eq!(counts("64").into_iter().collect::<Vec<_>>(), [(64, 30_000)]);
        let counts = counts("16,128");
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [16, 128]);
        assert!(counts.values().all(|count| (14_500..15_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn reads_what_it_writes() {
        for text in ["64", "8-256", "16,128", "8-16,512"] {
            assert_eq!(text.parse::<Lengths>().unwrap().to_string(), text);
        }
        assert_eq!(" 8 - 16 , 16-16".parse::<Lengths>().unwrap().to_string(), "8-16,16");
    }

    #[test]
    fn says_which_part_is_wrong() {
        for (text, item) in
            [("", ""), ("0", "0"), ("8-", "8-"), ("16,x", "x"), ("9-8", "9-8"), ("1-65537", "1-65537"), ("-5", "-5")]
        {
            let error = text.parse::<Lengths>().unwrap_err();
            assert_eq!(error.item, item, "{text}");
        }
        let error = "9-8".parse::<Lengths>().unwrap_err().to_string();
        assert_eq!(error, "`9-8` is no length from 1 to 65,536 and no range of such, as in `8-256` or `16,128`");
    }
}
