//! Waiting requests in order, with sums: what all up to a point take is known without looking at each.
//!
//! A B+ tree whose branches keep the sum of each child. Entering, leaving and finding how far a bound reaches take time in
//! the logarithm of the length; `BTreeMap` has no place for the sums.

mod iter;
mod node;
#[cfg(test)]
mod tests;

use alloc::vec;
use alloc::vec::Vec;

use crate::cost::Size;
use crate::queue::{Item, Rank};

pub(crate) use self::iter::Iter;

use self::node::{Child, Node};

/// Of some requests that stand one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) requests: u64,
    pub(crate) size: Size,
    pub(crate) bytes: u64,
}

impl Sum {
    pub(crate) fn of(item: &Item) -> Self {
        Self { requests: 1, size: item.cost.into(), bytes: item.cost.bytes }
    }

    fn over(items: &[Item]) -> Self {
        items.iter().fold(Self::default(), |sum, item| sum.plus(Self::of(item)))
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        let mut size = self.size;
        size.add(other.size);
        Self { requests: self.requests + other.requests, size, bytes: self.bytes.saturating_add(other.bytes) }
    }

    /// What is left of it without its first part.
    pub(crate) fn minus(self, other: Self) -> Self {
        let mut size = self.size;
        size.remove(other.size);
        Self { requests: self.requests - other.requests, size, bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

/// Requests by rank.
#[derive(Debug)]
pub(crate) struct Line {
    root: Node,
    sum: Sum,
}

impl Default for Line {
    fn default() -> Self {
        Self { root: Node::Leaf(Vec::new()), sum: Sum::default() }
    }
}

impl Line {
    /// Enters a request whose rank nobody has.
    pub(crate) fn insert(&mut self, item: Item) {
        self.sum = self.sum.plus(Sum::of(&item));
        if let Some(right) = self.root.insert(item) {
            let left = core::mem::replace(&mut self.root, Node::Leaf(Vec::new()));
            let first = left.first().unwrap_or(right.first);
            let sum = self.sum.minus(right.sum);
            self.root = Node::Branch(vec![Child { first, sum, node: left }, right]);
        }
    }

    pub(crate) fn remove(&mut self, rank: Rank) -> Option<Item> {
        let item = self.root.remove(rank)?;
        self.sum = self.sum.minus(Sum::of(&item));
        self.flatten();
        Some(item)
    }

    /// A branch of one child is that child.
    fn flatten(&mut self) {
        while let Node::Branch(children) = &mut self.root
            && children.len() <= 1
        {
            self.root = children.pop().map_or(Node::Leaf(Vec::new()), |child| child.node);
        }
    }

    /// Takes so many away from a position on.
    pub(crate) fn cut(&mut self, from: u64, count: u64) {
        let taken = self.root.cut(from, count);
        self.sum = self.sum.minus(taken);
        self.flatten();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sum.requests == 0
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, rank: Rank) -> bool {
        self.first_from(rank).is_some_and(|item| item.rank == rank)
    }

    pub(crate) fn first(&self) -> Option<&Item> {
        self.root.first_item()
    }

    /// The first whose rank is not before this one.
    pub(crate) fn first_from(&self, rank: Rank) -> Option<&Item> {
        let (mut node, mut next) = (&self.root, None);
        loop {
            match node {
                Node::Leaf(items) => {
                    let at = items.partition_point(|item| item.rank < rank);
                    return items.get(at).or_else(|| Node::first_item(next?));
                }
                Node::Branch(children) => {
                    let after = children.partition_point(|child| child.first <= rank).max(1);
                    next = children.get(after).map(|child| &child.node).or(next);
                    node = &children[after - 1].node;
                }
            }
        }
    }

    /// The one that so many stand before.
    pub(crate) fn at(&self, position: u64) -> Option<&Item> {
        let (mut node, mut left) = (&self.root, position);
        loop {
            match node {
                Node::Leaf(items) => return items.get(usize::try_from(left).ok()?),
                Node::Branch(children) => {
                    let child = children.iter().find(|child| {
                        let is_here = left < child.sum.requests;
                        left -= if is_here { 0 } else { child.sum.requests };
                        is_here
                    })?;
                    node = &child.node;
                }
            }
        }
    }

    /// The sum of all whose rank is before this one.
    pub(crate) fn before(&self, rank: Rank) -> Sum {
        let (mut node, mut sum) = (&self.root, Sum::default());
        loop {
            match node {
                Node::Leaf(items) => {
                    return sum.plus(Sum::over(&items[..items.partition_point(|item| item.rank < rank)]));
                }
                Node::Branch(children) => {
                    let index = children.partition_point(|child| child.first <= rank).saturating_sub(1);
                    sum = children[..index].iter().fold(sum, |sum, child| sum.plus(child.sum));
                    node = &children[index].node;
                }
            }
        }
    }

    /// The largest sum, from the first request on, for which it holds. Where it does not hold for a sum it must not for any
    /// larger one.
    pub(crate) fn reach(&self, holds: impl Fn(Sum) -> bool) -> Sum {
        let (mut node, mut sum) = (&self.root, Sum::default());
        loop {
            match node {
                Node::Leaf(items) => {
                    for item in items {
                        let next = sum.plus(Sum::of(item));
                        if !holds(next) {
                            break;
                        }
                        sum = next;
                    }
                    return sum;
                }
                Node::Branch(children) => {
                    let child = children.iter().find(|child| {
                        let next = sum.plus(child.sum);
                        let reaches = holds(next);
                        sum = if reaches { next } else { sum };
                        !reaches
                    });
                    match child {
                        Some(child) => node = &child.node,
                        None => return sum,
                    }
                }
            }
        }
    }

    /// All in order, from the one that so many stand before.
    pub(crate) fn iter_from(&self, position: u64) -> Iter<'_> {
        let mut iter = Iter { path: Vec::new(), items: [].iter() };
        let mut left = position;
        iter.descend(&self.root, &mut left);
        iter
    }

    pub(crate) fn iter(&self) -> Iter<'_> {
        self.iter_from(0)
    }

    /// Derives every sum and bound anew.
    pub(crate) fn assert_invariants(&self) {
        assert_eq!(self.root.assert_invariants(true), self.sum, "the sum of the line");
        assert!(self.iter().is_sorted_by(|a, b| a.rank < b.rank), "the line is in order");
    }
}
