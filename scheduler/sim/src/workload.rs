//! What clients send: calls at random times, of every class, tenant and model, some of them bad, some cancelled.

use std::time::Duration;

use shoal_scheduler::{Class, Cost, Group, GroupId, ModelId, Request, RequestId, TenantId, Timestamp};

use crate::rng::Rng;

/// What happens to a batch with this request in it. Only the world knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Nothing.
    Sound,
    /// The item fails alone, with a reason.
    Refused,
    /// The batch fails and the worker cannot say why.
    Breaks,
    /// The batch ends without a word about the item.
    Mutes,
    /// The worker dies.
    Crashes,
    /// The worker never comes back from it.
    Hangs,
    /// The device has not enough memory, even for it alone.
    TooBig,
}

/// The kinds of calls, and how often.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Calls in all.
    pub calls: u64,
    /// Mean time between two calls.
    pub gap_mean: Duration,
    /// Requests of one call at most.
    pub group_max: u64,
    /// Rows of one request at most.
    pub rows_max: u32,
    /// Tokens of one row at most.
    pub tokens_max: u32,
    pub tenants: u32,
    /// Models asked for, whether configured or not.
    pub models: Vec<ModelId>,
    pub classes: Vec<Class>,
    /// Calls in a thousand with a deadline of their own, and how long it is.
    pub deadline_per_mille: u64,
    pub deadline: (Duration, Duration),
    /// Calls in a thousand that are cancelled, and how late at most.
    pub cancel_per_mille: u64,
    pub cancel_after_max: Duration,
    /// Requests in a thousand that are not sound, and what they may be.
    pub bad_per_mille: u64,
    pub bad: Vec<Nature>,
}

/// One call, with what the core is not told about it.
#[derive(Clone, Debug)]
pub struct Call {
    pub group: Group,
    /// Of each request.
    pub natures: Vec<(RequestId, Nature)>,
    /// When the client loses patience.
    pub cancel_after: Option<Duration>,
}

/// Makes the calls of a workload, one after the other.
#[derive(Debug)]
pub struct Arrivals {
    workload: Workload,
    rng: Rng,
    calls: u64,
    requests: u64,
}

impl Arrivals {
    pub fn new(workload: Workload, rng: Rng) -> Self {
        Self { workload, rng, calls: 0, requests: 0 }
    }

    /// How long after the last call the next one comes; `None` when there is none.
    pub fn next_gap(&mut self) -> Option<Duration> {
        (self.calls < self.workload.calls).then(|| self.rng.exponential(self.workload.gap_mean))
    }

    /// The call that arrives now.
    pub fn next_call(&mut self, now: Timestamp) -> Call {
        self.calls += 1;
        let (workload, rng) = (&self.workload, &mut self.rng);
        let has_deadline = rng.per_mille(workload.deadline_per_mille);
        let deadline = has_deadline.then(|| now + rng.time(workload.deadline.0, workload.deadline.1));
        let is_cancelled = rng.per_mille(workload.cancel_per_mille);
        let cancel_after = is_cancelled.then(|| rng.time(Duration::ZERO, workload.cancel_after_max));
        let mut group = Group {
            id: GroupId(self.calls),
            model: *rng.pick(&workload.models),
            tenant: TenantId(rng.between_u32(1, workload.tenants)),
            class: *rng.pick(&workload.classes),
            deadline,
            requests: Vec::new(),
        };
        let mut natures = Vec::new();
        for _ in 0..rng.between(1, workload.group_max) {
            self.requests += 1;
            let id = RequestId(self.requests);
            let rows = rng.between_u32(1, workload.rows_max);
            let tokens = rows * rng.between_u32(0, workload.tokens_max);
            let tokens_squared = u64::from(tokens) * u64::from(tokens) / u64::from(rows);
            let bytes = u64::from(tokens) * 4;
            group.requests.push(Request { id, cost: Cost { rows, tokens, tokens_squared, bytes } });
            let is_bad = !workload.bad.is_empty() && rng.per_mille(workload.bad_per_mille);
            natures.push((id, if is_bad { *rng.pick(&workload.bad) } else { Nature::Sound }));
        }
        Call { group, natures, cancel_after }
    }
}
