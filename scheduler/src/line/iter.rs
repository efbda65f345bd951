//! Walking along the line.

use alloc::vec::Vec;

use super::node::{Child, Node};
use crate::queue::Item;

/// Requests in order.
pub(crate) struct Iter<'a> {
    /// Of each branch on the way, the children still to come.
    pub(super) path: Vec<core::slice::Iter<'a, Child>>,
    pub(super) items: core::slice::Iter<'a, Item>,
}

impl<'a> Iter<'a> {
    /// Goes down to the leaf of the request that so many stand before.
    pub(super) fn descend(&mut self, node: &'a Node, left: &mut u64) {
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
