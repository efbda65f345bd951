//! BentoML's dispatcher: the time of a batch is a line over its rows, fitted to the last fifty; the oldest request is
//! cancelled when what it has waited and the batch of all that wait would take longer than the objective.
//!
//! Its waiting rule is left out: it holds a batch back only while requests follow each other faster than a row takes,
//! which late binding does by itself.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use super::super::{BatchPolicy, Close, Decision, View};
use crate::cost::Size;
use crate::{CloseReason, OnLate, RequestId, Timestamp, WorkerId};

/// Batches the line is fitted to.
const SAMPLES: usize = 50;

/// A line over rows, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Bento {
    samples: VecDeque<(i128, i128)>,
    /// Nanoseconds of a batch, and 2⁻¹⁰ nanoseconds of a row.
    base: i128,
    row_1024: i128,
}

impl BatchPolicy for Bento {
    fn decide(&self, _view: &View<'_>) -> Decision {
        Decision::Close(Close::all(CloseReason::Drained))
    }

    fn give_up(&self, view: &View<'_>, _free: &dyn Fn() -> Vec<(Timestamp, WorkerId)>) -> Vec<RequestId> {
        let on_time = view.queue.on_time();
        let mut left = i128::from(on_time.rows);
        let mut items = view.queue.on_time_items().peekable();
        let mut late = Vec::new();
        while let Some(item) = items.next() {
            let rows = left.min(view.budget.rows.into());
            let time = self.base + self.row_1024 * rows / 1024;
            let until_due = i128::try_from(item.rank.due.since(view.now).as_nanos()).unwrap_or(i128::MAX);
            // The last of them is never cancelled.
            if items.peek().is_none() || time < until_due {
                break;
            }
            left -= i128::from(item.cost.rows);
            late.push(item.rank.id);
        }
        late
    }

    fn on_late(&self) -> Option<OnLate> {
        Some(OnLate::Shed)
    }

    fn observe(&mut self, size: Size, taken: Duration, _objective: Duration) {
        let taken = i128::try_from(taken.as_nanos()).unwrap_or(i128::MAX >> 64);
        self.samples.push_back((size.rows.into(), taken));
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
        let count = self.samples.len() as i128;
        let sum = |of: &dyn Fn(&(i128, i128)) -> i128| self.samples.iter().map(of).sum::<i128>();
        let (x, y, xx, xy) = (sum(&|s| s.0), sum(&|s| s.1), sum(&|s| s.0 * s.0), sum(&|s| s.0 * s.1));
        let spread = count * xx - x * x;
        self.row_1024 = if spread == 0 { 0 } else { (((count * xy - x * y) << 10) / spread).max(0) };
        self.base = ((y - self.row_1024 * x / 1024) / count).max(0);
    }
}
