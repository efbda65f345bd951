//! The nodes of the tree: leaves of items, and branches that keep the sum of each child.

use alloc::vec::Vec;

use super::Sum;
use crate::queue::{Item, Rank};

/// Items of a leaf, children of a branch at most.
const NODE_MAX: usize = 32;
/// A node that has fewer joins its neighbour where both fit into one.
const NODE_MIN: usize = NODE_MAX / 4;

#[derive(Debug)]
pub(super) enum Node {
    Leaf(Vec<Item>),
    Branch(Vec<Child>),
}

#[derive(Debug)]
pub(super) struct Child {
    /// Not after any of its ranks, and after all of the child before it.
    pub(super) first: Rank,
    pub(super) sum: Sum,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn first_item(&self) -> Option<&Item> {
        let mut node = self;
        loop {
            match node {
                Self::Leaf(items) => return items.first(),
                Self::Branch(children) => node = &children.first()?.node,
            }
        }
    }

    pub(super) fn first(&self) -> Option<Rank> {
        match self {
            Self::Leaf(items) => items.first().map(|item| item.rank),
            Self::Branch(children) => children.first().map(|child| child.first),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Leaf(items) => items.len(),
            Self::Branch(children) => children.len(),
        }
    }

    /// Gives the right half away when it became too long.
    pub(super) fn insert(&mut self, item: Item) -> Option<Child> {
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

    pub(super) fn remove(&mut self, rank: Rank) -> Option<Item> {
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
    pub(super) fn cut(&mut self, from: u64, count: u64) -> Sum {
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

    pub(super) fn assert_invariants(&self, is_root: bool) -> Sum {
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
