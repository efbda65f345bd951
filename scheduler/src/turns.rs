//! Whose turn it is on one worker when urgency alone would always choose somebody else.
//!
//! Urgency decides nearly always. These counts only bound for how long it may pass over the same class or model, so that
//! neither a flood of a more urgent class nor the backlog of another model starves anybody.

use alloc::collections::BTreeMap;

use crate::{Class, ModelId};

/// A flag per class, in the order of [`Class::ALL`].
pub(crate) type ByClass<T> = [T; Class::ALL.len()];

/// How many batches in a row a worker may run for more urgent classes while one of this class waits for it. The next is
/// led by the class: standard gets at least one batch in nine of a saturated worker, bulk one in seventeen.
const CLASS_PATIENCE: ByClass<u32> = [u32::MAX, 8, 16];
/// How many batches in a row may pass over late requests: they wait behind all who can be on time, and not for ever.
const LATE_PATIENCE: u32 = 16;
/// How many batches in a row, for each model the worker holds, may pass over a model that waits in the class that led
/// them. Due times alone would let a backlog that is long overdue hold up models that are still on time.
const MODEL_PATIENCE: u32 = 2;

/// What waits for a worker in the queue of a model it offers. One that is still loading keeps its place in the counts, or
/// a worker that crashes again and again would begin them anew each time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitingFor {
    pub(crate) is_ready: bool,
    pub(crate) classes: ByClass<bool>,
}

/// Counts of batches that passed over somebody, on one worker.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    classes: ByClass<u32>,
    models: BTreeMap<(Class, ModelId), u32>,
    late: u32,
}

impl Turns {
    /// Notes a batch of `model` led by `lead` with requests of the `taken` classes in it.
    pub(crate) fn count(
        &mut self,
        model: ModelId,
        lead: Class,
        taken: ByClass<bool>,
        queues: &BTreeMap<ModelId, WaitingFor>,
    ) {
        for class in Class::ALL {
            let at = class as usize;
            let mut waiting = queues.values().filter(|queue| queue.classes[at]);
            if taken[at] || waiting.clone().next().is_none() {
                self.classes[at] = 0;
            } else if waiting.any(|queue| queue.is_ready) {
                self.classes[at] = self.classes[at].saturating_add(1);
            }
        }
        let is_waiting = |of: ModelId, class: Class| queues.get(&of).is_some_and(|queue| queue.classes[class as usize]);
        self.models.retain(|(class, of), _| is_waiting(*of, *class) && (*of != model || !taken[*class as usize]));
        for (of, _) in queues.iter().filter(|(of, queue)| **of != model && queue.is_ready && is_waiting(**of, lead)) {
            let passed = self.models.entry((lead, *of)).or_default();
            *passed = passed.saturating_add(1);
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

    /// The models whose turn it is in a class, on a worker that holds so many.
    pub(crate) fn models_owed(&self, class: Class, held: usize) -> impl Iterator<Item = ModelId> {
        let patience = MODEL_PATIENCE.saturating_mul(u32::try_from(held).unwrap_or(u32::MAX));
        let of_class = self.models.range((class, ModelId(0))..=(class, ModelId(u32::MAX)));
        of_class.filter(move |(_, passed)| **passed >= patience).map(|((_, model), _)| *model)
    }
}
