//! What the rows of a call waited for, taken from what their model's clock showed when they came and when they left.
//!
//! Nearly every row is sent once, and for those nothing is kept of each. A row whose batch gave no result waits again;
//! of it is kept what it had waited before, and how long it was with workers in vain.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_scheduler::{BatchId, Timestamp, Waits};

use crate::explain::Waited;

/// The waits of one call.
#[derive(Debug)]
pub(super) struct WaitBook {
    /// What the clock showed when the call came.
    came: Waits,
    /// Rows that were never sent.
    unsent: u64,
    /// Rows that came back from workers without a result.
    again: BTreeMap<u32, Again>,
}

/// A row that came back.
#[derive(Debug)]
struct Again {
    waited: Waited,
    /// Since when it is where it is, and what the clock showed then.
    since: Timestamp,
    shown: Waits,
    /// With a worker, in this batch; waiting otherwise.
    batch: Option<BatchId>,
}

/// When a batch was sent, and what its model's clock showed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) at: Timestamp,
    pub(super) shown: Waits,
}

impl WaitBook {
    /// A call of so many rows came when the clock showed this.
    pub(super) fn new(rows: usize, came: Waits) -> Self {
        Self { came, unsent: rows as u64, again: BTreeMap::new() }
    }

    /// A row leaves for a worker. Returns what it waited for since it was last accounted for.
    pub(super) fn send(&mut self, row: u32, batch: BatchId, sent: Sent) -> Waits {
        let Some(again) = self.again.get_mut(&row) else {
            self.unsent = self.unsent.saturating_sub(1);
            return sent.shown.since(self.came);
        };
        let waited = sent.shown.since(again.shown);
        again.waited.waits += waited;
        (again.since, again.batch) = (sent.at, Some(batch));
        waited
    }

    /// A batch that was sent like that is over and gave no result for this row: it waits again, unless it left meanwhile.
    pub(super) fn come_back(&mut self, row: u32, batch: BatchId, sent: Sent, now: Sent) {
        let again = self.again(row, batch, sent);
        if again.batch == Some(batch) {
            again.waited.failed += now.at.since(again.since);
            (again.since, again.shown, again.batch) = (now.at, now.shown, None);
        }
    }

    /// The same, while another batch that holds the row runs on: one of the two is the hedge of the other, and it is
    /// with a worker until both are over.
    pub(super) fn stay(&mut self, row: u32, batch: BatchId, sent: Sent, other: BatchId, other_sent: Sent) {
        if other_sent.at <= sent.at {
            return; // It was in the other one all the time.
        }
        let again = self.again(row, batch, sent);
        if again.batch == Some(batch) {
            again.batch = Some(other);
        }
    }

    /// What is kept of a row once it is more than that it was sent, which it was in this batch.
    fn again(&mut self, row: u32, batch: BatchId, sent: Sent) -> &mut Again {
        let came = self.came;
        self.again.entry(row).or_insert_with(|| Again {
            waited: Waited { waits: sent.shown.since(came), failed: Duration::ZERO },
            since: sent.at,
            shown: sent.shown,
            batch: Some(batch),
        })
    }

    /// What a row waited for up to when the clock showed this: now if it waits, or else when it was sent first.
    pub(super) fn waited(&self, row: u32, shown: Waits) -> Waited {
        match self.again.get(&row) {
            None => Waited { waits: shown.since(self.came), failed: Duration::ZERO },
            Some(again) if again.batch.is_some() => again.waited,
            Some(again) => Waited { waits: again.waited.waits + shown.since(again.shown), ..again.waited },
        }
    }

    /// What those rows waited for that wait still and will not be sent any more; `is_open` tells those without a result.
    pub(super) fn left(&self, now: Waits, is_open: impl Fn(u32) -> bool) -> Waits {
        let back = self.again.iter().filter(|(row, again)| again.batch.is_none() && is_open(**row));
        let back = back.fold(Waits::NONE, |sum, (_, again)| sum + now.since(again.shown));
        now.since(self.came).times(self.unsent) + back
    }
}

#[cfg(test)]
mod tests {
    use shoal_scheduler::WaitCause;

    use super::*;

    /// A clock that only ever showed that there is no worker.
    fn at(millis: u64) -> Sent {
        let shown = [(WaitCause::NoWorker, Duration::from_millis(millis))].into_iter().collect();
        Sent { at: Timestamp::from_millis(millis), shown }
    }

    fn told(waited: Waited) -> [u128; 2] {
        [waited.waits.of(WaitCause::NoWorker).as_millis(), waited.failed.as_millis()]
    }

    #[test]
    fn rows_that_are_sent_once_waited_from_when_their_call_came() {
        let mut book = WaitBook::new(3, at(10).shown);
        assert_eq!(book.send(0, BatchId(1), at(12)).total(), Duration::from_millis(2));
        assert_eq!(book.send(1, BatchId(2), at(15)).total(), Duration::from_millis(5));
        assert_eq!(told(book.waited(1, at(15).shown)), [5, 0]);
        assert_eq!(book.left(at(20).shown, |_| true).total(), Duration::from_millis(10), "the third waits still");
    }

    #[test]
    fn a_row_that_comes_back_waited_and_ran_in_turn() {
        let mut book = WaitBook::new(1, at(0).shown);
        book.send(0, BatchId(1), at(3));
        book.come_back(0, BatchId(1), at(3), at(8));
        assert_eq!(told(book.waited(0, at(10).shown)), [5, 5]);
        assert_eq!(book.left(at(10).shown, |_| true).total(), Duration::from_millis(2));
        assert_eq!(book.send(0, BatchId(2), at(12)).total(), Duration::from_millis(4));
        book.come_back(0, BatchId(2), at(12), at(20));
        book.send(0, BatchId(3), at(21));
        assert_eq!(told(book.waited(0, at(99).shown)), [8, 13]);
        assert_eq!(book.left(at(99).shown, |_| true), Waits::NONE);
    }

    #[test]
    fn a_row_that_left_before_its_batch_was_said_to_be_over_has_left() {
        let mut book = WaitBook::new(1, at(0).shown);
        book.send(0, BatchId(1), at(3));
        book.come_back(0, BatchId(1), at(3), at(8));
        book.send(0, BatchId(2), at(8));
        book.come_back(0, BatchId(1), at(3), at(8));
        assert_eq!(told(book.waited(0, at(9).shown)), [3, 5]);
    }

    #[test]
    fn a_row_whose_hedge_fails_as_well_ran_until_then() {
        let mut book = WaitBook::new(1, at(0).shown);
        book.send(0, BatchId(1), at(3));
        book.stay(0, BatchId(1), at(3), BatchId(2), at(5));
        book.come_back(0, BatchId(2), at(5), at(11));
        assert_eq!(told(book.waited(0, at(15).shown)), [7, 8]);
        assert_eq!(book.left(at(15).shown, |_| false), Waits::NONE, "who has a result waits no longer");
    }

    #[test]
    fn a_row_that_its_hedge_runs_on_with_does_not_wait() {
        let mut book = WaitBook::new(1, at(0).shown);
        book.send(0, BatchId(1), at(3));
        book.stay(0, BatchId(1), at(3), BatchId(2), at(5));
        assert_eq!(told(book.waited(0, at(15).shown)), [3, 0]);
        assert_eq!(book.left(at(15).shown, |_| true), Waits::NONE);
    }

    #[test]
    fn a_row_whose_hedge_fails_first_waited_until_its_batch_was_sent_and_ran_until_that_was_over() {
        let mut book = WaitBook::new(1, at(0).shown);
        book.send(0, BatchId(1), at(3));
        book.stay(0, BatchId(2), at(5), BatchId(1), at(3));
        assert_eq!(book.left(at(15).shown, |_| true), Waits::NONE);
        book.come_back(0, BatchId(1), at(3), at(11));
        assert_eq!(told(book.waited(0, at(15).shown)), [7, 8]);
    }

    #[test]
    fn a_row_that_was_sent_again_before_its_batch_was_said_to_be_over_is_in_the_later_one() {
        let mut book = WaitBook::new(1, at(0).shown);
        book.send(0, BatchId(1), at(3));
        book.come_back(0, BatchId(1), at(3), at(8));
        book.send(0, BatchId(2), at(8));
        book.stay(0, BatchId(1), at(3), BatchId(2), at(8));
        book.come_back(0, BatchId(2), at(8), at(10));
        assert_eq!(told(book.waited(0, at(11).shown)), [4, 7]);
    }
}
