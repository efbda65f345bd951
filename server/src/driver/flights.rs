//! Batches with workers, and which of them hold a row: two may, while one is the hedge of the other.

use std::collections::BTreeMap;

use shoal_scheduler::{BatchId, Dispatch, RequestId};

use super::calls::Pending;
use super::waits::Sent;

/// All of them.
pub(super) type Flights = BTreeMap<BatchId, Flight>;

/// A batch with a worker.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) dispatch: Dispatch,
    pub(super) sent: Sent,
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
