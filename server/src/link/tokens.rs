//! Who may attach: each local child with a token of its own, everybody else with one they share.

use std::sync::Arc;

use dashmap::DashMap;

/// Who may attach.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Token of each local child, by worker name.
    children: Arc<DashMap<String, String>>,
    /// Token shared by all other workers; empty to have none.
    shared: Arc<str>,
}

impl Tokens {
    /// Lets workers with this token in; with an empty one, only local children.
    pub fn shared(token: &str) -> Self {
        Self { children: Arc::default(), shared: token.into() }
    }

    /// Lets a child in under its own name, with its own token.
    pub fn admit_child(&self, name: &str, token: &str) {
        self.children.insert(name.to_owned(), token.to_owned());
    }

    /// Whether a worker may attach, and whether it is a child of this server.
    pub(super) fn check(&self, name: &str, token: &str) -> Option<Origin> {
        let child = self.children.get(name).map(|entry| entry.value().clone());
        match child {
            Some(expected) => same(&expected, token).then_some(Origin::Child),
            None => (!self.shared.is_empty() && same(&self.shared, token)).then_some(Origin::Elsewhere),
        }
    }
}

#[cfg(test)]
impl Tokens {
    pub(super) fn admits(&self, name: &str, token: &str) -> bool {
        self.check(name, token).is_some()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Child,
    Elsewhere,
}

/// Compares in a time that depends on the length alone.
fn same(a: &str, b: &str) -> bool {
    let differing = a.bytes().zip(b.bytes()).fold(0, |acc, (x, y)| acc | (x ^ y));
    a.len() == b.len() && differing == 0
}
