//! Inputs of one model that ended their worker, or broke their batch, alone: refused when they come again, before they
//! reach a worker.
//!
//! They are known by SHA-256, so that nobody can make an input that is taken for another's. Bounded in number and in
//! time: a worker that was mended deserves to be asked again. While nothing is held nothing is hashed, and then only
//! inputs of the same size as one that is.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use shoal_scheduler::Timestamp;

use crate::call::{Row, RowOptions};

/// How long an input is held.
pub(super) const TIME_MAX: Duration = Duration::from_secs(600);
/// Inputs held for one model; the one held longest makes room.
const INPUTS_MAX: usize = 256;

/// The inputs of one model that are held.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    held: BTreeMap<Key, Timestamp>,
}

/// An input's bytes and their hash; ordered by size first, so that those of one size are neighbours.
type Key = (u64, [u8; 32]);

impl Quarantine {
    /// Holds an input from now on.
    pub(super) fn hold(&mut self, now: Timestamp, row: &Row) {
        self.expire(now);
        if self.held.len() >= INPUTS_MAX
            && let Some(oldest) = self.held.iter().min_by_key(|(_, since)| **since).map(|(key, _)| *key)
        {
            self.held.remove(&oldest);
        }
        self.held.insert((size(row), digest(row)), now);
    }

    /// The first of these inputs that is held, and since when.
    pub(super) fn find(&mut self, now: Timestamp, rows: &[Row]) -> Option<(u32, Timestamp)> {
        if self.held.is_empty() {
            return None;
        }
        self.expire(now);
        (0..).zip(rows).find_map(|(index, row)| self.since(row).map(|since| (index, since)))
    }

    /// Lets everything go.
    pub(super) fn empty(&mut self) {
        self.held.clear();
    }

    /// Inputs held.
    pub(super) fn len(&self, now: Timestamp) -> usize {
        self.held.values().filter(|since| now.since(**since) < TIME_MAX).count()
    }

    fn since(&self, row: &Row) -> Option<Timestamp> {
        let size = size(row);
        self.held.range((size, [0; 32])..=(size, [u8::MAX; 32])).next()?;
        self.held.get(&(size, digest(row))).copied()
    }

    fn expire(&mut self, now: Timestamp) {
        self.held.retain(|_, since| now.since(*since) < TIME_MAX);
    }
}

fn size(row: &Row) -> u64 {
    row.columns.iter().map(|column| column.len() as u64).sum()
}

/// Everything of a row that a worker computes with. Columns carry their length, or bytes could move from one to the
/// next unseen.
fn digest(row: &Row) -> [u8; 32] {
    let mut hash = Sha256::new();
    for column in &row.columns {
        hash.update((column.len() as u64).to_le_bytes());
        hash.update(column);
    }
    let RowOptions { normalize, dimensions, raw, top_k, targets } = &row.options;
    hash.update([normalize.map_or(2, u8::from)]);
    hash.update(dimensions.to_le_bytes());
    hash.update([u8::from(*raw)]);
    hash.update(top_k.to_le_bytes());
    for target in &targets[..] {
        hash.update(target.to_le_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn row(columns: &[&'static str]) -> Row {
        let columns = columns.iter().map(|column| Bytes::from_static(column.as_bytes())).collect();
        Row { columns, tokens: 1, truncated: false, options: RowOptions::default() }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn finds_what_it_holds_and_nothing_like_it() {
        let mut quarantine = Quarantine::default();
        quarantine.hold(at(1), &row(&["ab", "c"]));
        assert_eq!(quarantine.find(at(2), &[row(&["x"]), row(&["ab", "c"])]), Some((1, at(1))));
        let otherwise = [
            RowOptions { normalize: Some(false), ..RowOptions::default() },
            RowOptions { dimensions: 1, ..RowOptions::default() },
            RowOptions { raw: true, ..RowOptions::default() },
            RowOptions { top_k: 1, ..RowOptions::default() },
            RowOptions { targets: [1].into(), ..RowOptions::default() },
        ];
        let otherwise = otherwise.map(|options| Row { options, ..row(&["ab", "c"]) });
        let alike = [&[row(&["a", "bc"]), row(&["abc"]), row(&["ab", "d"])][..], &otherwise].concat();
        assert_eq!(quarantine.find(at(2), &alike), None);
    }

    #[test]
    fn lets_an_input_go_after_its_time() {
        let mut quarantine = Quarantine::default();
        quarantine.hold(at(0), &row(&["a"]));
        assert!(quarantine.find(at(599), &[row(&["a"])]).is_some());
        assert_eq!(quarantine.len(at(599)), 1);
        assert_eq!(quarantine.len(at(600)), 0);
        assert!(quarantine.find(at(600), &[row(&["a"])]).is_none());
    }

    #[test]
    fn holds_so_many_and_no_more_the_latest_ones() {
        let numbered = |number: u64| Row { columns: vec![Bytes::from(number.to_le_bytes().to_vec())], ..row(&[]) };
        let mut quarantine = Quarantine::default();
        let count = INPUTS_MAX as u64 + 10;
        for number in 0..count {
            quarantine.hold(Timestamp::ZERO + Duration::from_millis(number), &numbered(number));
        }
        assert_eq!(quarantine.len(at(1)), INPUTS_MAX);
        assert!(quarantine.find(at(1), &[numbered(9)]).is_none());
        assert!(quarantine.find(at(1), &[numbered(10)]).is_some());
    }
}
