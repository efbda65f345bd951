//! A few models, each once, in order.
//!
//! Nearly always of none or one, and filled and emptied with every input: an ordered set would take memory for each and
//! give it back.

use alloc::collections::VecDeque;

use crate::ModelId;

/// Models in order of their ids.
#[derive(Debug, Default)]
pub(crate) struct ModelSet {
    ids: VecDeque<ModelId>,
}

impl ModelSet {
    pub(crate) fn insert(&mut self, id: ModelId) {
        if self.ids.back().is_none_or(|last| *last < id) {
            self.ids.push_back(id);
        } else if let Err(at) = self.ids.binary_search(&id) {
            self.ids.insert(at, id);
        }
    }

    pub(crate) fn remove(&mut self, id: ModelId) {
        if let Ok(at) = self.ids.binary_search(&id) {
            self.ids.remove(at);
        }
    }

    pub(crate) fn first(&self) -> Option<ModelId> {
        self.ids.front().copied()
    }

    pub(crate) fn pop_first(&mut self) -> Option<ModelId> {
        self.ids.pop_front()
    }

    pub(crate) fn contains(&self, id: ModelId) -> bool {
        self.ids.binary_search(&id).is_ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

impl Extend<ModelId> for ModelSet {
    fn extend<T: IntoIterator<Item = ModelId>>(&mut self, ids: T) {
        ids.into_iter().for_each(|id| self.insert(id));
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use super::*;

    #[test]
    fn is_an_ordered_set() {
        let (mut set, mut model, mut random) = (ModelSet::default(), BTreeSet::new(), 1u64);
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let id = ModelId((random >> 40) as u32 % 40);
            match random >> 61 {
                0 => assert_eq!(set.pop_first(), model.pop_first()),
                1 => {
                    set.remove(id);
                    model.remove(&id);
                }
                2 => {
                    let more = || (0..id.0 / 8).map(|step| ModelId(id.0 + step * 3));
                    set.extend(more());
                    model.extend(more());
                }
                _ => {
                    set.insert(id);
                    model.insert(id);
                }
            }
            assert_eq!((set.first(), set.is_empty()), (model.first().copied(), model.is_empty()));
            assert_eq!(set.contains(id), model.contains(&id));
            assert!(set.ids.iter().eq(&model));
        }
    }
}
