//! A batch that takes longer than nearly all of its size do is run a second time, by a worker that is idle.
//!
//! Whichever is first has the results; the other is told which are no longer wanted ("The tail at scale", Dean and
//! Barroso, CACM 2013). That bounds what a worker costs that hangs, long before it counts as lost. No more than one in
//! fifty batches is run twice, and no request a third time so; nothing that may be what broke a batch is.

use alloc::vec::Vec;
use core::time::Duration;

use super::Scheduler;
use crate::cost::{Costs, Size};
use crate::inflight::Batch;
use crate::requests::Place;
use crate::{Attempt, BatchId, CloseReason, Cost, Dispatch, ModelId, Output, RequestId, WorkerId};

/// What batches of no size may take longer than is usual: a process may have to wait for its turn.
const SLACK: Duration = Duration::from_millis(2);

/// The requests of a slow batch that are run again, and what they cost.
#[derive(Debug, Default)]
struct Again {
    requests: Vec<RequestId>,
    cost: Cost,
}

impl Scheduler {
    /// How long a batch may take before it is slow: half as long again as nearly all do. `None` where nothing is known, not
    /// even what its weights take that are not there, or the policy does not go by what is known, and of workers that run a
    /// batch when it is its scheduler's turn.
    pub(super) fn patience(&self, model: ModelId, worker: WorkerId, size: Size) -> Option<Duration> {
        let is_known = |costs: &Costs| costs.is_known() && costs.knows_page_in(worker);
        let model = self.models.get(&model).filter(|model| is_known(&model.costs))?;
        let high = model.costs.high(worker, size);
        (model.minds_slow_batches() && !self.is_sharing).then(|| (high / 2 * 3).max(high + SLACK))
    }

    /// Runs batches that are slow a second time, while there are idle workers for it.
    pub(super) fn hedge(&mut self) {
        for id in self.hedges.wanted() {
            if !self.needs_hedge(id) {
                self.hedges.forget(id);
            } else if self.hedges.can_spend() {
                self.try_hedge(id);
            }
        }
    }

    /// Whether a batch may ever be run a second time.
    fn needs_hedge(&self, id: BatchId) -> bool {
        let Some(batch) = self.inflight.get(id) else { return false };
        let is_fresh = !batch.isolated && !batch.is_hedge && batch.twin.is_none();
        is_fresh
            && self.models.contains_key(&batch.model)
            && batch.requests.iter().any(|of| self.may_run_again(*of, id))
    }

    fn may_run_again(&self, request: RequestId, batch: BatchId) -> bool {
        self.requests.get(request).is_some_and(|live| live.place == Place::Running(batch) && !live.hedged)
    }

    fn try_hedge(&mut self, id: BatchId) {
        let Some((worker, again)) = self.inflight.get(id).and_then(|batch| self.again(id, batch)) else { return };
        let (Some(batch), Some(epoch)) = (self.inflight.get(id), self.fleet.get(worker).map(|worker| worker.epoch))
        else {
            return;
        };
        let model = batch.model;
        let time_max = self.models.get(&model).map_or(batch.time_max, |model| model.config.batch_time_max);
        let (Some((slot, _)), Some(known)) = (self.credit(model, worker), self.models.get(&model)) else { return };
        let expected = known.costs.expected(worker, again.cost.into());
        let attempt = again.requests.iter().map(|request| self.requests.hedge(*request)).max().unwrap_or(0);
        let hedge = self.inflight.insert(Batch {
            worker,
            epoch,
            model,
            attempt: Attempt(attempt),
            requests: again.requests.clone(),
            withdrawn: Vec::new(),
            rows: again.cost.rows,
            tokens: again.cost.tokens,
            squares: again.cost.tokens_squared,
            others: Size::default(),
            begun: true,
            sent: self.now,
            expected,
            started: None,
            page_in: Duration::ZERO,
            isolated: false,
            is_hedge: true,
            is_probe: false,
            twin: None,
            spared: 0,
            patience: self.patience(model, worker, again.cost.into()),
            slow_at: None,
            time_max,
            overdue: None,
        });
        self.inflight.pair(id, hedge);
        self.hedges.spend();
        self.hedges.forget(id);
        self.hand_over(worker, slot, hedge, again.cost.rows, expected);
        self.outputs.push_back(Output::Dispatch(Dispatch {
            batch: hedge,
            worker,
            epoch,
            slot,
            model,
            attempt: Attempt(attempt),
            close: CloseReason::Hedged,
            requests: again.requests,
        }));
    }

    /// The idle worker that is quickest with what can still be had of a batch, and what that is: who would miss its
    /// client's deadline there, or does not fit, is left to the first.
    fn again(&self, id: BatchId, batch: &Batch) -> Option<(WorkerId, Again)> {
        let model = self.models.get(&batch.model)?;
        let idle = self.fleet.holders(batch.model).filter(|(worker, link)| {
            *worker != batch.worker
                && link.outstanding.is_empty()
                && link.suspect.is_none()
                && link.best_credit().is_some()
        });
        let (worker, _) = idle.min_by_key(|(worker, _)| (model.costs.expected(*worker, batch.size()), *worker))?;
        let (_, budget) = self.credit(batch.model, worker)?;
        let end = self.now + model.costs.high(worker, batch.size());
        let mut again = Again::default();
        for request in batch.requests.iter().filter(|request| self.may_run_again(**request, id)) {
            let Some(live) = self.requests.get(*request).filter(|live| end <= live.deadline) else { continue };
            let cost = Cost {
                rows: again.cost.rows.saturating_add(live.cost.rows),
                tokens: again.cost.tokens.saturating_add(live.cost.tokens),
                tokens_squared: again.cost.tokens_squared.saturating_add(live.cost.tokens_squared),
                bytes: again.cost.bytes.saturating_add(live.cost.bytes),
            };
            if cost.rows <= budget.rows && cost.tokens <= budget.tokens && cost.bytes <= budget.bytes {
                again.cost = cost;
                again.requests.push(*request);
            }
        }
        (!again.requests.is_empty()).then_some((worker, again))
    }

    /// The twin of this batch had the outcome of a request first.
    pub(super) fn spare(&mut self, id: BatchId, request: RequestId, is_clear: bool) {
        let Some(batch) = self.inflight.get(id) else { return };
        let (worker, epoch) = (batch.worker, batch.epoch);
        self.inflight.spare(id);
        if !is_clear {
            // It may be what breaks this one.
            self.inflight.withdraw(id, request);
        }
        self.outputs.push_back(Output::CancelRunning { worker, epoch, batch: id, requests: [request].to_vec() });
    }
}
