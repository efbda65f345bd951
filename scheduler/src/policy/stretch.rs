//! A model's requests that could be on time, or all but some of them: what they take from one to another, without looking
//! at each.

use alloc::vec::Vec;

use crate::Timestamp;
use crate::line::{Line, Sum};
use crate::queue::{Item, Queue};

/// Some requests by rank. Positions are counted among them.
pub(super) struct Stretch<'a> {
    line: &'a Line,
    /// Left out of the line, by rank.
    gone: Vec<Gone>,
    pub(super) len: u64,
    /// Of each class the position of its first one, and when that one is due.
    classes: Vec<(u64, Timestamp)>,
}

/// One that is left out.
#[derive(Clone, Copy)]
struct Gone {
    /// How many stand before it in the line.
    position: u64,
    /// Of them those that are left.
    left: u64,
    /// What it takes with all that are left out before it.
    sum: Sum,
}

impl<'a> Stretch<'a> {
    /// All of a queue that could be on time.
    pub(super) fn all(queue: &'a Queue) -> Self {
        Self { line: queue.line(), gone: Vec::new(), len: queue.on_time().requests, classes: queue.firsts().collect() }
    }

    /// All but these.
    pub(super) fn without(queue: &'a Queue, items: &[&Item]) -> Self {
        let all = Self::all(queue);
        let position = |item: &&Item| (all.line.before(item.rank).requests, Sum::of(item));
        let mut gone: Vec<_> = items.iter().map(position).collect();
        gone.sort_unstable_by_key(|(position, _)| *position);
        let mut sum = Sum::default();
        let mut add = |(position, one)| {
            let left = position - sum.requests;
            sum = sum.plus(one);
            Gone { position, left, sum }
        };
        let gone: Vec<_> = gone.into_iter().map(&mut add).collect();
        let mut stretch = Self { len: all.len - sum.requests, gone, ..all };
        // A class begins with its first one that is left, if one is.
        let begins: Vec<_> = stretch.classes.iter().map(|(at, _)| at - stretch.gone_before(*at).requests).collect();
        let ends = begins.iter().skip(1).copied().chain([stretch.len]);
        let left = begins.iter().copied().zip(ends).filter(|(begin, end)| begin < end);
        stretch.classes = left.map(|(begin, _)| (begin, stretch.due_at(begin))).collect();
        stretch
    }

    /// What the first so many take.
    pub(super) fn upto(&self, end: u64) -> Sum {
        self.reach(|sum| sum.requests <= end)
    }

    /// The largest sum of the first ones for which it holds. Where it does not hold for a sum it must not for any larger one.
    pub(super) fn reach(&self, holds: impl Fn(Sum) -> bool) -> Sum {
        let left = |sum: Sum| sum.minus(self.gone_before(sum.requests));
        left(self.line.reach(|sum| {
            let left = left(sum);
            left.requests <= self.len && holds(left)
        }))
    }

    /// The one that so many stand before.
    pub(super) fn at(&self, position: u64) -> Option<&'a Item> {
        if position >= self.len {
            return None;
        }
        // Left out before it are those that no more than so many that are left stand before.
        let before = self.gone.partition_point(|gone| gone.left <= position);
        self.line.at(position + before as u64)
    }

    /// When that one is due.
    pub(super) fn due_at(&self, position: u64) -> Timestamp {
        self.at(position).map_or(Timestamp::MAX, |item| item.rank.due)
    }

    /// When the earliest after `first` and before `end` that may be due before it is due: the first one of another class.
    pub(super) fn due_of_others(&self, first: u64, end: u64) -> Timestamp {
        let others = self.classes.iter().filter(|(at, _)| (first + 1..end).contains(at)).map(|(_, due)| *due);
        others.min().unwrap_or(Timestamp::MAX)
    }

    /// What is left out of the first so many of the line.
    fn gone_before(&self, end: u64) -> Sum {
        let count = self.gone.partition_point(|gone| gone.position < end);
        count.checked_sub(1).map_or(Sum::default(), |last| self.gone[last].sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Rank;
    use crate::{Class, Cost, RequestId, TenantId};

    fn item(id: u64, class: Class, due: u64, rows: u32) -> Item {
        let cost = Cost { rows, tokens: rows * 7, tokens_squared: u64::from(rows) * 49, bytes: 3 };
        let rank = Rank { late: false, class, due: Timestamp::from_millis(due), id: RequestId(id) };
        let (arrived, deadline) = (Timestamp::ZERO, Timestamp::MAX);
        Item { rank, tenant: TenantId(1), arrived, deadline, cost }
    }

    /// What it says, against going through the requests one by one.
    fn check(queue: &Queue, gone: &[&Item]) {
        let stretch = Stretch::without(queue, gone);
        let left: Vec<&Item> = queue.on_time_items().filter(|item| !gone.contains(item)).collect();
        assert_eq!(stretch.len, left.len() as u64);
        let mut sum = Sum::default();
        for (at, item) in (0..).zip(&left) {
            assert_eq!(stretch.upto(at), sum, "the first {at}");
            assert_eq!(stretch.due_at(at), item.rank.due, "{at} of {}", left.len());
            sum = sum.plus(Sum::of(item));
            let rows = sum.size.rows;
            assert_eq!(stretch.reach(|sum| sum.size.rows <= rows).size.rows, rows);
        }
        assert_eq!(stretch.upto(u64::MAX), sum);
        assert_eq!(stretch.due_at(stretch.len), Timestamp::MAX);
        for (first, end) in [(0, left.len()), (1, left.len() / 2), (left.len() / 3, left.len())] {
            let others = (first + 1..end).filter(|at| left[*at].rank.class != left[*at - 1].rank.class);
            let due = others.map(|at| left[at].rank.due).min().unwrap_or(Timestamp::MAX);
            assert_eq!(stretch.due_of_others(first as u64, end as u64), due);
        }
    }

    #[test]
    fn is_what_is_left_whoever_is_left_out() {
        let mut seed = 7_u64;
        let mut draw = |end: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % end
        };
        for count in [1, 2, 30, 300] {
            let mut queue = Queue::default();
            for id in 0..count {
                queue.push(item(id, Class::ALL[draw(3) as usize], draw(500), 1 + draw(4) as u32));
            }
            let late = item(count, Class::Standard, 1, 1);
            queue.push(Item { rank: Rank { late: true, ..late.rank }, ..late });
            for share in [0, 1, 3, 9, 10] {
                let items: Vec<_> = queue.on_time_items().copied().collect();
                let gone: Vec<&Item> = items.iter().filter(|_| draw(10) < share).collect();
                check(&queue, &gone);
            }
            let bulk: Vec<_> = queue.on_time_of(Class::Bulk).copied().collect();
            check(&queue, &bulk.iter().collect::<Vec<_>>());
        }
    }
}
