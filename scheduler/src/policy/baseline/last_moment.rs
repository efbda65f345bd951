//! Waits until a batch that is one larger would be too late for its first request, as Symphony does (Chen et al., 2023),
//! without its matching of models to workers.

use super::super::{BatchPolicy, Close, Decision, View};
use crate::cost::Size;
use crate::{CloseReason, OnLate};

/// Defers as long as it can.
#[derive(Debug)]
pub(super) struct LastMoment;

impl BatchPolicy for LastMoment {
    fn decide(&self, view: &View<'_>) -> Decision {
        let close = |why| Decision::Close(Close { time_max: Some(view.objective), ..Close::all(why) });
        let on_time = view.queue.on_time();
        let Some(first) = view.queue.first_on_time() else { return close(CloseReason::Drained) };
        let is_full = on_time.rows >= u64::from(view.budget.rows) || on_time.tokens >= u64::from(view.budget.tokens);
        if !view.costs.is_known() || is_full {
            return close(CloseReason::Drained);
        }
        let mut grown = on_time.size();
        grown.add(Size {
            rows: 1,
            tokens: grown.tokens / grown.rows.max(1),
            squares: grown.squares / grown.rows.max(1),
        });
        let until = first.rank.due - view.costs.high(view.worker, grown);
        if until <= view.now { close(CloseReason::Delay) } else { Decision::WaitUntil(until) }
    }

    fn on_late(&self) -> Option<OnLate> {
        Some(OnLate::Shed)
    }
}
