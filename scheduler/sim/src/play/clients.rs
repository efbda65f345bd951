//! The clients of a run: what they asked, what became of it, and who asks again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use shoal_scheduler::{Class, Group, GroupId, ModelId, Request, RequestId, TenantId, Timestamp};

use super::{Fate, Record};
use crate::scenario::Ask;

/// Everybody who asks.
#[derive(Debug, Default)]
pub(super) struct Clients {
    pub(super) records: Vec<Record>,
    /// Records without an end.
    pub(super) open: u64,
    /// The record behind each request that the core was told of. Who asks again has a new request and the old record.
    asked: Vec<usize>,
    /// By the number of their first request, open calls of more than one request and those that are asked again.
    calls: BTreeMap<u64, Call>,
}

/// One call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// Of its requests.
    records: Range<usize>,
    pub(super) model: ModelId,
    tenant: TenantId,
    class: Class,
    /// How long its client waits.
    patience: Option<Duration>,
    /// How often it asks again.
    retries: u32,
}

impl Clients {
    /// A call is made for the first time: of these requests, each with an answer wanted within the objective.
    pub(super) fn ask(&mut self, ask: &Ask, mates: impl Iterator<Item = Ask>, objective: Duration) -> Group {
        let first = self.records.len();
        for ask in std::iter::once(*ask).chain(mates) {
            self.records.push(Record::asked(&ask, objective));
            self.open += 1;
        }
        self.submit(
            Call {
                records: first..self.records.len(),
                model: ask.model,
                tenant: ask.tenant,
                class: ask.class,
                patience: ask.deadline.map(|deadline| deadline.since(ask.at)),
                retries: ask.retries,
            },
            ask.at,
        )
    }

    /// A call that was refused is made again.
    pub(super) fn ask_again(&mut self, call: Call, now: Timestamp, objective: Duration) -> Group {
        for record in &mut self.records[call.records.clone()] {
            let due = now + objective;
            record.due = call.patience.map_or(due, |patience| due.min(now + patience));
        }
        self.submit(call, now)
    }

    fn submit(&mut self, call: Call, now: Timestamp) -> Group {
        let first = self.asked.len() as u64;
        let requests = (first..).zip(&self.records[call.records.clone()]);
        let group = Group {
            id: GroupId(first),
            model: call.model,
            tenant: call.tenant,
            class: call.class,
            deadline: call.patience.map(|patience| now + patience),
            requests: requests.map(|(id, record)| Request { id: RequestId(id), cost: record.cost }).collect(),
        };
        self.asked.extend(call.records.clone());
        if call.records.len() > 1 || call.retries > 0 {
            self.calls.insert(first, call);
        }
        group
    }

    /// What was asked under this name.
    pub(super) fn record(&self, request: RequestId) -> &Record {
        &self.records[self.asked[request.0 as usize]]
    }

    /// A request has its answer.
    pub(super) fn answered(&mut self, request: RequestId, now: Timestamp) {
        self.end(self.asked[request.0 as usize], Fate::Answered(now));
        self.close(request);
    }

    /// A call has none, and nothing of it is answered. Returns it when its client is going to ask again.
    pub(super) fn refused(&mut self, request: RequestId, now: Timestamp, may_retry: bool) -> Option<Call> {
        let Some((&first, call)) = self.call_of(request) else {
            self.end(self.asked[request.0 as usize], Fate::Shed(now));
            return None;
        };
        let mut call = call.clone();
        self.calls.remove(&first);
        let again = may_retry && call.retries > 0;
        for at in call.records.clone() {
            self.end(at, if again { Fate::Open } else { Fate::Shed(now) });
        }
        call.retries = call.retries.saturating_sub(1);
        again.then_some(call)
    }

    fn end(&mut self, at: usize, fate: Fate) {
        let before = std::mem::replace(&mut self.records[at].fate, fate);
        self.open = self.open + u64::from(fate == Fate::Open) - u64::from(before == Fate::Open);
    }

    /// Forgets a call whose requests all have an end.
    fn close(&mut self, request: RequestId) {
        let Some((&first, call)) = self.call_of(request) else { return };
        if self.records[call.records.clone()].iter().all(|record| record.fate != Fate::Open) {
            self.calls.remove(&first);
        }
    }

    fn call_of(&self, request: RequestId) -> Option<(&u64, &Call)> {
        let (first, call) = self.calls.range(..=request.0).next_back()?;
        (request.0 - first < call.records.len() as u64).then_some((first, call))
    }
}

impl Record {
    /// Of a request that has just come.
    pub(super) fn asked(ask: &Ask, objective: Duration) -> Self {
        let Ask { at, model, tenant, cost, is_poison, .. } = *ask;
        let due = ask.deadline.unwrap_or(Timestamp::MAX).min(at + objective);
        Self { at, due, model, tenant, cost, is_poison, fate: Fate::Open }
    }
}
