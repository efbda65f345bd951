//! Calls that get no answer: counted, and explained to callers who ask.

use std::time::Duration;

use shoal_scheduler::{GroupId, ModelId, RequestId, Timestamp};
use tokio::sync::oneshot;
use tracing::debug;

use super::calls::Pending;
use super::flights::holder;
use super::traced::End;
use super::{Driver, quarantine};
use crate::call::{Answer, Call, CallError, Row, full_name};
use crate::explain::{Found, Refusal, Waited};

/// How far a call had come that ends without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was not let in.
    OnArrival,
    /// It was let in, and this row of it is why it ends.
    Row(u32),
    /// It was let in and has every result.
    WithResults,
}

/// A call that was handed over just now.
pub(super) struct Arrived {
    pub(super) first: u64,
    pub(super) call: Call,
    pub(super) reply: oneshot::Sender<Result<Answer, CallError>>,
}

impl Driver {
    /// Ends a call without an answer.
    pub(super) fn refuse(
        &mut self,
        now: Timestamp,
        group: GroupId,
        ended: Ended,
        error: CallError,
        reason: &'static str,
    ) {
        let Some(mut pending) = self.take_call(now, group) else { return };
        let (caller, name) = (&pending.call.caller, &*pending.call.model);
        debug!(request_id = group.0, trace_id = caller.trace.id(), model = name, reason, "call refused");
        self.count_refusal(now, pending.model, &error, reason);
        pending.call.caller.explain.refuse(|| {
            let refusal = self.refusal(now, pending.model, &pending.call, reason);
            let waited = self.waited_until(now, group, &pending, ended);
            Refusal { on_arrival: ended == Ended::OnArrival, waited, ..refusal }
        });
        let shown = self.show(now, group, &mut pending, End::of(&error), None);
        if !pending.fail(error) {
            self.unshow(shown);
        }
    }

    /// A call is refused before the core hears of it.
    pub(super) fn turn_away(
        &mut self,
        now: Timestamp,
        model: ModelId,
        arrived: Arrived,
        error: CallError,
        reason: &'static str,
    ) {
        let Arrived { first, call, reply } = arrived;
        debug!(request_id = first, trace_id = call.caller.trace.id(), model = &*call.model, reason, "call refused");
        self.count_refusal(now, model, &error, reason);
        let shown = self.show_refusal(now, first, &call, &error);
        call.caller.explain.refuse(|| self.refusal(now, model, &call, reason));
        if reply.send(Err(error)).is_err() {
            self.unshow(shown);
        }
    }

    pub(super) fn count_refusal(&mut self, now: Timestamp, model: ModelId, error: &CallError, reason: &'static str) {
        if let Some(metrics) = self.model_metrics.get(&model) {
            metrics.reject(reason);
            metrics.call(error.code_name());
        }
        if let Some(model) = self.models.get_mut(model) {
            model.recent.refuse(now, reason);
        }
    }

    /// How things stand for a call that is refused on arrival.
    fn refusal(&self, now: Timestamp, model: ModelId, call: &Call, reason: &'static str) -> Refusal {
        let cost = call.rows.iter().map(Row::cost).max_by_key(|cost| cost.tokens);
        let found = cost.and_then(|cost| self.core.situation(model, cost));
        Refusal {
            model: call.model.clone(),
            reason,
            on_arrival: true,
            waited: None,
            deadline_in: call.caller.deadline.map(|deadline| self.stamp(deadline).since(now)),
            found: found.map(|situation| Found::new(situation, now)),
        }
    }

    /// What the row waited for that a call ends for, up to now or up to when it was sent; of a call whose rows were all
    /// sent, the one that waited longest.
    fn waited_until(&self, now: Timestamp, group: GroupId, pending: &Pending, ended: Ended) -> Option<Waited> {
        let row = match ended {
            Ended::OnArrival => return None,
            Ended::Row(row) if pending.is_open(row) => row,
            Ended::Row(_) | Ended::WithResults => return pending.waited_longest(),
        };
        let request = RequestId(group.0 + u64::from(row));
        let shown = match holder(&self.batches, pending, request) {
            Some((_, sent)) => sent.shown,
            None => self.core.waits(pending.model, now)?,
        };
        Some(pending.waits.waited(row, shown))
    }
}

/// Why a call ended that never had a model to ask, as metrics name it.
pub(super) fn reason_without_model(error: &CallError) -> &'static str {
    match error {
        CallError::DeadlinePassed => "deadline_passed",
        CallError::Draining => "draining",
        CallError::QueueFull { limit, .. } => full_name(*limit),
        _ => "model_not_ready",
    }
}

/// The error of a call with an input that is held.
pub(super) fn quarantined(row: u32, held: Duration) -> CallError {
    CallError::Quarantined { field: format!("[{row}]"), held, left: quarantine::TIME_MAX.saturating_sub(held) }
}
