//! Batches with workers, and which of them hold a row: two may, while one is the hedge of the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_scheduler::{BatchId, Dispatch, RequestId};

use super::calls::Pending;
use super::waits::Sent;
use crate::call::BatchUse;
use crate::traces::{Link, Ran};

/// All of them.
pub(super) type Flights = BTreeMap<BatchId, Flight>;

/// A batch with a worker.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) dispatch: Dispatch,
    pub(super) sent: Sent,
    /// What its span says, if it has one.
    pub(super) shown: Option<Box<Shown>>,
    /// How much later it is done for weights that had to come first.
    pub(super) page_in: Duration,
}

/// What is shown of a batch: with which calls, and what is known when it is sent.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) ids: Link,
    pub(super) calls: Vec<Link>,
    pub(super) entry: BatchUse,
    pub(super) rows_max: u32,
    pub(super) tokens_max: u32,
    pub(super) model: Arc<str>,
    pub(super) worker: Option<Arc<str>>,
    pub(super) device: Option<Arc<str>>,
}

/// How a batch was over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Over {
    Ran(Ran),
    /// For this.
    Failed(&'static str),
}

/// The batch that has held a row of this call longest, of those with workers.
pub(super) fn holder(flights: &Flights, pending: &Pending, request: RequestId) -> Option<(BatchId, Sent)> {
    holders(flights, pending, request).min_by_key(|(_, sent)| sent.at)
}

/// Accounts for a row that is sent again before its last batch was said to be over.
pub(super) fn come_back(flights: &Flights, pending: &mut Pending, request: RequestId, row: u32, now: Sent) {
    let before: Vec<(BatchId, Sent)> = holders(flights, pending, request).collect();
    for (batch, sent) in before {
        pending.waits.come_back(row, batch, sent, now);
    }
}

fn holders(flights: &Flights, pending: &Pending, request: RequestId) -> impl Iterator<Item = (BatchId, Sent)> {
    let flying = pending.batch_ids().filter_map(|id| Some((id, flights.get(&id)?)));
    flying.filter(move |(_, flight)| flight.dispatch.requests.contains(&request)).map(|(id, flight)| (id, flight.sent))
}
