//! Why batches of a model were closed and calls refused of late, for people who ask.

use std::time::Duration;

use shoal_scheduler::{CloseReason, Timestamp};

use crate::call::close_name;
use crate::explain::RECENT;

/// Parts of [`RECENT`]: what is told is at most one older than that.
const PARTS: u64 = 6;
/// Counts of the last minute.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    parts: [Part; PARTS as usize + 1],
}

/// A part of that minute.
#[derive(Clone, Debug, Default)]
struct Part {
    /// Which, counted from the start.
    number: u64,
    batches: u64,
    rows: u64,
    closes: [u64; CloseReason::ALL.len()],
    /// There are no more than there are reasons.
    refusals: Vec<(&'static str, u64)>,
}

/// What is told of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) batches: u64,
    pub(super) rows: u64,
    pub(super) closes: Vec<(&'static str, u64)>,
    pub(super) refusals: Vec<(&'static str, u64)>,
}

impl Recent {
    /// A batch was closed.
    pub(super) fn close(&mut self, now: Timestamp, why: CloseReason, rows: u32) {
        let part = self.part(now);
        part.batches += 1;
        part.rows += u64::from(rows);
        part.closes[why as usize] += 1;
    }

    /// A call was refused, or ended without a result.
    pub(super) fn refuse(&mut self, now: Timestamp, reason: &'static str) {
        add(&mut self.part(now).refusals, reason, 1);
    }

    /// All of it, the most frequent reasons first.
    pub(super) fn told(&self, now: Timestamp) -> Told {
        let current = number(now);
        let mut told = Told::default();
        for part in self.parts.iter().filter(|part| part.number + PARTS >= current) {
            told.batches += part.batches;
            told.rows += part.rows;
            for (why, count) in CloseReason::ALL.iter().zip(part.closes).filter(|(_, count)| *count > 0) {
                add(&mut told.closes, close_name(*why), count);
            }
            part.refusals.iter().for_each(|(reason, count)| add(&mut told.refusals, reason, *count));
        }
        for counts in [&mut told.closes, &mut told.refusals] {
            counts.sort_by_key(|(reason, count)| (u64::MAX - count, *reason));
        }
        told
    }

    fn part(&mut self, now: Timestamp) -> &mut Part {
        let number = number(now);
        let part = &mut self.parts[(number % (PARTS + 1)) as usize];
        if part.number != number {
            *part = Part { number, ..Part::default() };
        }
        part
    }
}

fn number(now: Timestamp) -> u64 {
    let length = RECENT / PARTS as u32;
    let nanos = now.since(Timestamp::ZERO).as_nanos() / length.max(Duration::from_nanos(1)).as_nanos();
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

fn add(counts: &mut Vec<(&'static str, u64)>, reason: &'static str, more: u64) {
    match counts.iter_mut().find(|(known, _)| *known == reason) {
        Some((_, count)) => *count += more,
        None => counts.push((reason, more)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn reasons_stand_in_their_own_order() {
        for (index, why) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(*why as usize, index, "{why:?}");
        }
    }

    #[test]
    fn what_is_older_than_a_minute_is_forgotten() {
        let mut recent = Recent::default();
        recent.close(at(1), CloseReason::Drained, 3);
        recent.close(at(30), CloseReason::Delay, 5);
        recent.close(at(31), CloseReason::Delay, 5);
        recent.refuse(at(31), "late");
        let told = recent.told(at(59));
        assert_eq!((told.batches, told.rows), (3, 13));
        assert_eq!((told.closes, told.refusals), (vec![("delay", 2), ("drained", 1)], vec![("late", 1)]));
        assert_eq!(recent.told(at(75)).closes, [("delay", 2)]);
        assert_eq!(recent.told(at(110)), Told::default());
        recent.close(at(111), CloseReason::Rows, 1);
        assert_eq!(recent.told(at(111)).closes, [("rows", 1)]);
    }
}
