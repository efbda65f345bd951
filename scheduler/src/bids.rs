//! What workers that serve other schedulers as well were told is wanted of them, and when it is worth telling them anew.

use alloc::collections::BTreeMap;

use crate::{Budget, ModelId, Want, WorkerId};

/// What waits is told again when it grew or shrank by more than this part of it …
const NEWS_PART: u64 = 4;
/// … or when its latest start moved by more than this part of the time a batch of it takes.
const START_PART: u32 = 4;

/// The bids that workers know of.
#[derive(Debug, Default)]
pub(crate) struct Bids {
    told: BTreeMap<(WorkerId, ModelId), Want>,
    /// Of each worker's last turn.
    budgets: BTreeMap<WorkerId, Budget>,
}

impl Bids {
    /// Notes what is wanted of a worker now. Whether it is to be told.
    pub(crate) fn set(&mut self, worker: WorkerId, model: ModelId, want: Option<Want>) -> bool {
        let key = (worker, model);
        let is_news = match (self.told.get(&key), &want) {
            (None, None) => false,
            (Some(told), Some(want)) => differs(told, want),
            (None, Some(_)) | (Some(_), None) => true,
        };
        match want {
            Some(want) if is_news => _ = self.told.insert(key, want),
            Some(_) => {}
            None => _ = self.told.remove(&key),
        }
        is_news
    }

    /// A turn takes the bid for its model back.
    pub(crate) fn spend(&mut self, worker: WorkerId, model: ModelId, budget: Budget) {
        self.told.remove(&(worker, model));
        self.budgets.insert(worker, budget);
    }

    /// What a batch may hold on a worker, as far as is known.
    pub(crate) fn budget(&self, worker: WorkerId) -> Budget {
        const ANY: Budget = Budget { rows: u32::MAX, tokens: u32::MAX, bytes: u64::MAX };
        self.budgets.get(&worker).copied().unwrap_or(ANY)
    }

    /// A worker knows nothing any more.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.told.retain(|(of, _), _| *of != worker);
        self.budgets.remove(&worker);
    }

    /// What workers know.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, ModelId, &Want)> {
        self.told.iter().map(|((worker, model), want)| (*worker, *model, want))
    }
}

/// Whether a worker would decide differently.
fn differs(told: &Want, want: &Want) -> bool {
    let kind = |want: &Want| (want.class, want.is_apart, want.classes, want.on_time.rows == 0, want.late.rows == 0);
    let has_changed = |told: u64, now: u64| told.abs_diff(now) * NEWS_PART > told;
    let moved = if told.start > want.start { told.start.since(want.start) } else { want.start.since(told.start) };
    kind(told) != kind(want)
        || has_changed(told.on_time.rows, want.on_time.rows)
        || has_changed(told.on_time.tokens, want.on_time.tokens)
        || has_changed(told.late.rows, want.late.rows)
        || moved > told.time / START_PART
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::{Class, Size, Timestamp};

    const KEY: (WorkerId, ModelId) = (WorkerId(1), ModelId(2));

    fn want(rows: u64, start_ms: u64) -> Option<Want> {
        Some(Want {
            class: Class::Standard,
            start: Timestamp::from_millis(start_ms),
            time: Duration::from_millis(8),
            on_time: Size { rows, ..Size::default() },
            classes: [false, true, false],
            late: Size::default(),
            is_apart: false,
        })
    }

    #[test]
    fn little_is_no_news_and_little_after_little_is() {
        let mut bids = Bids::default();
        let mut set = |want| bids.set(KEY.0, KEY.1, want);
        assert!(set(want(8, 100)) && !set(want(8, 100)));
        assert!(!set(want(10, 101)) && set(want(11, 100)));
        assert!(set(want(11, 103)) && set(want(11, 100)));
        assert!(set(None) && !set(None));
    }

    #[test]
    fn a_turn_takes_a_bid_back_and_a_new_life_all() {
        let mut bids = Bids::default();
        let budget = Budget { rows: 9, tokens: 9, bytes: 9 };
        assert!(bids.set(KEY.0, KEY.1, want(8, 100)));
        bids.spend(KEY.0, KEY.1, budget);
        assert_eq!(bids.budget(KEY.0), budget);
        assert!(bids.set(KEY.0, KEY.1, want(8, 100)));
        bids.forget(KEY.0);
        assert_eq!(bids.iter().count(), 0);
        assert!(bids.budget(KEY.0).rows > 9);
    }
}
