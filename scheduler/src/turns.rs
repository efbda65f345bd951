//! Whose turn it is on one worker when urgency alone would always choose somebody else.
//!
//! Urgency decides nearly always. These counts only bound for how long it may pass over the same class, so that a flood of
//! a more urgent one starves nobody. Between models of a class it is the workers' time that counts.

use crate::Class;

/// A flag per class, in the order of [`Class::ALL`].
pub(crate) type ByClass<T> = [T; Class::ALL.len()];

/// How many batches in a row a worker may run for more urgent classes while one of this class waits for it. The next is
/// led by the class: standard gets at least one batch in nine of a saturated worker, bulk one in seventeen.
const CLASS_PATIENCE: ByClass<u32> = [u32::MAX, 8, 16];
/// How many batches in a row may pass over late requests: they wait behind all who can be on time, and not for ever.
const LATE_PATIENCE: u32 = 16;

/// Counts of batches that passed over somebody, on one worker.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    classes: ByClass<u32>,
    late: u32,
}

impl Turns {
    /// Notes a batch with requests of the `taken` classes in it, while others of the `waiting` ones waited for the worker. A
    /// count whose class does not wait just now is kept: its model may be loading.
    pub(crate) fn count(&mut self, taken: ByClass<bool>, waiting: ByClass<bool>) {
        for ((count, taken), waiting) in self.classes.iter_mut().zip(taken).zip(waiting) {
            *count = if taken { 0 } else { count.saturating_add(u32::from(waiting)) };
        }
    }

    /// Notes a batch while late requests waited for the worker, or none did, or of late requests itself.
    pub(crate) fn count_late(&mut self, is_waiting: bool, is_served: bool) {
        self.late = if is_waiting && !is_served { self.late.saturating_add(1) } else { 0 };
    }

    /// Whether it is late requests' turn.
    pub(crate) fn is_late_owed(&self) -> bool {
        self.late >= LATE_PATIENCE
    }

    /// The classes whose turn it is to lead a batch although one of `lead` could go.
    pub(crate) fn classes_owed(&self, lead: Class) -> impl Iterator<Item = Class> {
        let is_owed = |class: &Class| self.classes[*class as usize] >= CLASS_PATIENCE[*class as usize];
        Class::ALL.into_iter().filter(move |class| *class > lead).filter(is_owed)
    }
}
