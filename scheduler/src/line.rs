//! Waiting requests in order, with sums: what all up to a point take is known without looking at each.
//!
//! A B+ tree whose branches keep the sum of each child. Entering, leaving and finding how far a bound reaches take time in
//! the logarithm of the length; `BTreeMap` has no place for the sums.

use alloc::vec;
use alloc::vec::Vec;

use crate::cost::Size;
use crate::queue::{Item, Rank};

/// Items of a leaf, children of a branch at most.
const NODE_MAX: usize = 32;
/// A node that has fewer joins its neighbour where both fit into one.
const NODE_MIN: usize = NODE_MAX / 4;

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

#[derive(Debug)]
enum Node {
    Leaf(Vec<Item>),
    Branch(Vec<Child>),
}

#[derive(Debug)]
struct Child {
    /// Not after any of its ranks, and after all of the child before it.
    first: Rank,
    sum: Sum,
    node: Node,
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

impl Node {
    fn first_item(&self) -> Option<&Item> {
        let mut node = self;
        loop {
            match node {
                Self::Leaf(items) => return items.first(),
                Self::Branch(children) => node = &children.first()?.node,
            }
        }
    }

    fn first(&self) -> Option<Rank> {
        match self {
            Self::Leaf(items) => items.first().map(|item| item.rank),
            Self::Branch(children) => children.first().map(|child| child.first),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(items) => items.len(),
            Self::Branch(children) => children.len(),
        }
    }

    /// Gives the right half away when it became too long.
    fn insert(&mut self, item: Item) -> Option<Child> {
        match self {
            Self::Leaf(items) => {
                let at = items.partition_point(|other| other.rank < item.rank);
                items.insert(at, item);
                let right = split(items)?;
                Some(Child { first: right[0].rank, sum: Sum::over(&right), node: Self::Leaf(right) })
            }
            Self::Branch(children) => {
                let at = children.partition_point(|child| child.first <= item.rank).saturating_sub(1);
                let child = &mut children[at];
                child.first = child.first.min(item.rank);
                child.sum = child.sum.plus(Sum::of(&item));
                let right = child.node.insert(item)?;
                child.sum = child.sum.minus(right.sum);
                children.insert(at + 1, right);
                let right = split(children)?;
                let sum = right.iter().fold(Sum::default(), |sum, child| sum.plus(child.sum));
                Some(Child { first: right[0].first, sum, node: Self::Branch(right) })
            }
        }
    }

    fn remove(&mut self, rank: Rank) -> Option<Item> {
        match self {
            Self::Leaf(items) => {
                let at = items.binary_search_by_key(&rank, |item| item.rank).ok()?;
                Some(items.remove(at))
            }
            Self::Branch(children) => {
                let at = children.partition_point(|child| child.first <= rank).checked_sub(1)?;
                let child = &mut children[at];
                let item = child.node.remove(rank)?;
                child.sum = child.sum.minus(Sum::of(&item));
                if child.node.len() < NODE_MIN {
                    join(children, at);
                }
                Some(item)
            }
        }
    }

    /// Takes away so many from a position on and says what they take.
    fn cut(&mut self, from: u64, count: u64) -> Sum {
        let end = from.saturating_add(count);
        match self {
            Self::Leaf(items) => {
                let within = |position: u64| usize::try_from(position).unwrap_or(usize::MAX).min(items.len());
                let range = within(from)..within(end);
                let taken = Sum::over(&items[range.clone()]);
                items.drain(range);
                taken
            }
            Self::Branch(children) => {
                let (mut before, mut taken) = (0, Sum::default());
                children.retain_mut(|child| {
                    let (first, last) = (before, before + child.sum.requests);
                    before = last;
                    if from.max(first) >= end.min(last) {
                        return true;
                    }
                    let gone = if from <= first && last <= end {
                        child.sum
                    } else {
                        child.node.cut(from.max(first) - first, end.min(last) - from.max(first))
                    };
                    taken = taken.plus(gone);
                    child.sum = child.sum.minus(gone);
                    child.sum.requests > 0
                });
                if let Some(at) = children.iter().position(|child| child.node.len() < NODE_MIN) {
                    join(children, at);
                }
                taken
            }
        }
    }

    fn assert_invariants(&self, is_root: bool) -> Sum {
        assert!(self.len() <= NODE_MAX && (is_root || self.len() > 0), "a node of {}", self.len());
        match self {
            Self::Leaf(items) => Sum::over(items),
            Self::Branch(children) => children.iter().fold(Sum::default(), |sum, child| {
                assert_eq!(child.node.assert_invariants(false), child.sum, "the sum of a child");
                assert!(child.node.first().is_some_and(|first| child.first <= first), "the bound of a child");
                sum.plus(child.sum)
            }),
        }
    }
}

/// The right half of a node that became too long.
fn split<T>(entries: &mut Vec<T>) -> Option<Vec<T>> {
    if entries.len() <= NODE_MAX {
        return None;
    }
    let mut right = Vec::with_capacity(NODE_MAX + 1);
    right.extend(entries.drain(NODE_MAX / 2..));
    Some(right)
}

/// Takes a short child into the neighbour before or after it, where both are no more than half a node short of two, and an
/// empty one away.
fn join(children: &mut Vec<Child>, at: usize) {
    if children[at].node.len() == 0 {
        children.remove(at);
        return;
    }
    let left = if at + 1 < children.len() { at } else { at.saturating_sub(1) };
    if left + 1 >= children.len() || children[left].node.len() + children[left + 1].node.len() > NODE_MAX / 4 * 3 {
        return;
    }
    let right = children.remove(left + 1);
    let into = &mut children[left];
    into.sum = into.sum.plus(right.sum);
    match (&mut into.node, right.node) {
        (Node::Leaf(items), Node::Leaf(more)) => items.extend(more),
        (Node::Branch(nodes), Node::Branch(more)) => nodes.extend(more),
        (Node::Leaf(_), Node::Branch(_)) | (Node::Branch(_), Node::Leaf(_)) => {
            unreachable!("all leaves are equally deep")
        }
    }
}

/// Requests in order.
pub(crate) struct Iter<'a> {
    /// Of each branch on the way, the children still to come.
    path: Vec<core::slice::Iter<'a, Child>>,
    items: core::slice::Iter<'a, Item>,
}

impl<'a> Iter<'a> {
    /// Goes down to the leaf of the request that so many stand before.
    fn descend(&mut self, node: &'a Node, left: &mut u64) {
        match node {
            Node::Leaf(items) => {
                let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(items.len());
                *left -= skipped as u64;
                self.items = items[skipped..].iter();
            }
            Node::Branch(children) => {
                let mut rest = children.iter();
                let child = rest.find(|child| {
                    let is_here = *left < child.sum.requests;
                    *left -= if is_here { 0 } else { child.sum.requests };
                    is_here
                });
                if let Some(child) = child {
                    self.path.push(rest);
                    self.descend(&child.node, left);
                }
            }
        }
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Item;

    fn next(&mut self) -> Option<&'a Item> {
        loop {
            if let Some(item) = self.items.next() {
                return Some(item);
            }
            match self.path.last_mut()?.next() {
                Some(child) => self.descend(&child.node, &mut 0),
                None => drop(self.path.pop()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;
    use crate::{Class, Cost, RequestId, TenantId, Timestamp};

    fn item(random: u64, id: u64) -> Item {
        let class = Class::ALL[(random % 3) as usize];
        let rank = Rank {
            late: random.is_multiple_of(7),
            class,
            due: Timestamp::from_millis(random / 8 % 500),
            id: RequestId(id),
        };
        let tokens = (random / 64 % 100) as u32;
        let cost = Cost { rows: 1, tokens, tokens_squared: u64::from(tokens).pow(2), bytes: random % 1_000 };
        Item { rank, tenant: TenantId(1), arrived: Timestamp::ZERO, deadline: Timestamp::MAX, cost }
    }

    #[test]
    fn gives_a_stretch_away_at_once() {
        let (mut line, mut state) = (Line::default(), 3);
        let mut model: Vec<Item> = (0..3_000).map(|id| item(random(&mut state), id)).collect();
        model.iter().for_each(|item| line.insert(*item));
        model.sort_unstable_by_key(|item| item.rank);
        while !model.is_empty() {
            let from = (random(&mut state) % model.len() as u64) as usize / 3;
            let end = (from + (random(&mut state) % 150) as usize).min(model.len());
            line.cut(from as u64, (end - from) as u64);
            model.drain(from..end);
            line.assert_invariants();
            assert!(line.iter().eq(model.iter()), "{} are left", model.len());
        }
    }

    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    #[test]
    fn is_a_sorted_map_that_grows_and_shrinks() {
        let (mut line, mut model, mut state) = (Line::default(), BTreeMap::new(), 1);
        for step in 0..30_000u64 {
            // Up to three thousand, down to none, twice.
            let is_growing = (step / 7_500).is_multiple_of(2);
            let grows = random(&mut state) % 10 < if is_growing { 7 } else { 3 };
            if grows || model.is_empty() {
                let item = item(random(&mut state), step);
                line.insert(item);
                model.insert(item.rank, item);
            } else {
                let at = (random(&mut state) % model.len() as u64) as usize;
                // The first half of the time one in the middle, then the first.
                let at = if step.is_multiple_of(2) { at } else { 0 };
                let rank = *line.at(at as u64).map(|item| &item.rank).expect("there are so many");
                assert_eq!(line.remove(rank), model.remove(&rank));
                assert_eq!(line.remove(rank), None);
            }
            if step.is_multiple_of(501) {
                line.assert_invariants();
                assert!(line.iter().eq(model.values()), "step {step}");
            }
        }
        for rank in model.keys() {
            assert!(line.remove(*rank).is_some());
        }
        line.assert_invariants();
        assert!(line.is_empty() && line.first().is_none());
    }

    #[test]
    fn knows_what_all_up_to_a_point_take() {
        let (mut line, mut state) = (Line::default(), 2);
        let mut items: Vec<Item> = (0..2_000).map(|id| item(random(&mut state), id)).collect();
        items.iter().for_each(|item| line.insert(*item));
        items.sort_unstable_by_key(|item| item.rank);
        let mut sum = Sum::default();
        for (position, item) in items.iter().enumerate() {
            assert_eq!(line.at(position as u64), Some(item));
            assert_eq!(line.before(item.rank), sum);
            assert!(line.contains(item.rank));
            assert_eq!(line.first_from(item.rank), Some(item));
            assert_eq!(line.reach(|reached| reached.size.tokens <= sum.size.tokens).size.tokens, sum.size.tokens);
            assert_eq!(line.iter_from(position as u64).next(), Some(item));
            sum = sum.plus(Sum::of(item));
            assert_eq!(line.reach(|reached| reached.requests <= sum.requests), sum);
        }
        assert_eq!((line.reach(|_| true), line.reach(|_| false)), (sum, Sum::default()));
        assert_eq!((line.at(2_000), line.iter_from(2_000).next()), (None, None));
    }
}
