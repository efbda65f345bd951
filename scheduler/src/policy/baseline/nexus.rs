//! Nexus' early drop (Shen et al., SOSP 2019): a batch size chosen beforehand, and heads dropped until one can wait for a
//! whole batch of it.

use alloc::vec::Vec;

use super::super::{BatchPolicy, Close, Decision, View};
use crate::cost::Size;
use crate::queue::Item;
use crate::{CloseReason, OnLate, RequestId, Timestamp, WorkerId};

/// Batches of so many rows.
#[derive(Debug)]
pub(super) struct Nexus {
    pub(super) rows: u32,
}

impl BatchPolicy for Nexus {
    fn decide(&self, _view: &View<'_>) -> Decision {
        Decision::Close(Close { rows_max: self.rows, ..Close::all(CloseReason::Drained) })
    }

    fn give_up(&self, view: &View<'_>, _free: &dyn Fn() -> Vec<(Timestamp, WorkerId)>) -> Vec<RequestId> {
        let on_time = view.queue.on_time();
        let average = |sum: u64| sum / on_time.rows.max(1);
        let rows = u64::from(self.rows.min(view.budget.rows));
        let mut left = on_time.rows;
        let mut is_late = |item: &&Item| {
            let rows = rows.min(left);
            left -= u64::from(item.cost.rows);
            let size = Size { rows, tokens: average(on_time.tokens) * rows, squares: average(on_time.squares) * rows };
            view.now + view.costs.expected(view.worker, size) > item.rank.due
        };
        view.queue.on_time_items().take_while(|item| is_late(item)).map(|item| item.rank.id).collect()
    }

    fn on_late(&self) -> Option<OnLate> {
        Some(OnLate::Shed)
    }
}
