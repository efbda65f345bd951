//! A second, naive account of the same contract: which request may be where, and which outcome it must have.
//!
//! It knows neither policy nor placement and keeps no index: everything is found by looking at all requests. Given what
//! the core was told and which batches it chose to send, every failure, refusal and cancellation follows, and the
//! [`Ledger`] says which. What it does not foresee it calls a violation.

mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_scheduler::{
    Attempt, BatchId, Budget, Class, CloseReason, Cost, Dispatch, DownCause, Epoch, Failure, Group, GroupId, Limits,
    ModelConfig, ModelId, OnLate, Output, PolicyConfig, Probe, QueueLimit, Reject, RequestId, Slot, TenantId,
    Timestamp, WorkerId,
};

/// What a `retry_after` may say.
const RETRY_AFTER: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(30);

/// Everything the core has been told and has done.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub now: Timestamp,
    limits: Limits,
    pub models: BTreeMap<ModelId, ModelConfig>,
    /// All requests ever admitted.
    pub requests: BTreeMap<RequestId, Record>,
    /// Batches that have not ended.
    pub batches: BTreeMap<BatchId, Batch>,
    /// Connected workers.
    pub workers: BTreeMap<WorkerId, Worker>,
    last_epochs: BTreeMap<WorkerId, Epoch>,
    pub drain: Option<Timestamp>,
    has_drained: bool,
    /// Batches sent, without and with a second time.
    batches_sent: u64,
    hedges: u64,
    step: Step,
}

/// One admitted request.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub group: GroupId,
    pub model: ModelId,
    pub tenant: TenantId,
    pub class: Class,
    pub cost: Cost,
    pub arrived: Timestamp,
    pub deadline: Timestamp,
    pub due: Timestamp,
    /// Whether the core gave it up as late.
    pub late: bool,
    /// When it ends where it is, if nothing happens.
    pub expires: Timestamp,
    pub state: State,
    pub sends: u16,
    /// It was sent a second time beside the first.
    hedged: bool,
    losses: u16,
    /// The batch that failed under it, and how many of it may run together at most. It may share a batch only with
    /// others that say the same.
    pub suspect: Option<(BatchId, usize)>,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Queued,
    Running(BatchId),
    /// It has an outcome, or will never have one.
    Ended,
}

/// One batch.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub worker: WorkerId,
    pub epoch: Epoch,
    pub attempt: Attempt,
    pub model: ModelId,
    pub requests: Vec<RequestId>,
    /// No longer wanted and not reported.
    withdrawn: BTreeSet<RequestId>,
    /// When the worker could begin it.
    started: Option<Timestamp>,
    time_max: Duration,
    /// The other one of a batch and its hedge. A request of both is in the first of them.
    twin: Option<BatchId>,
}

/// One connected worker.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub epoch: Epoch,
    pub models: BTreeMap<ModelId, Holding>,
    pub credits: BTreeMap<Slot, Budget>,
    /// In the order sent.
    pub outstanding: Vec<BatchId>,
    /// It was sent a batch of a model whose policy knows how long that should take.
    pub may_be_slow: bool,
}

/// What a worker has of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    /// Never asked for in this epoch.
    Untouched,
    Loading,
    Ready,
    /// Could not be loaded, or was dropped.
    Gone,
    Unloading,
}

/// What must still come of the last input.
#[derive(Debug, Default)]
struct Step {
    completes: Option<RequestId>,
    fails: BTreeMap<RequestId, Failure>,
    unwanted: BTreeMap<(WorkerId, Epoch, BatchId), BTreeSet<RequestId>>,
    refuses: Option<(GroupId, Refusal)>,
}

/// A [`Reject`] without its estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Plain(Reject),
    Full(QueueLimit),
}

impl Ledger {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            now: Timestamp::ZERO,
            limits,
            models: BTreeMap::new(),
            requests: BTreeMap::new(),
            batches: BTreeMap::new(),
            workers: BTreeMap::new(),
            last_epochs: BTreeMap::new(),
            drain: None,
            has_drained: false,
            batches_sent: 0,
            hedges: 0,
            step: Step::default(),
        }
    }

    /// Takes down what the core did, or says why it may not.
    pub(crate) fn did(&mut self, output: &Output) -> Result<(), String> {
        match output {
            Output::Dispatch(dispatch) => self.dispatched(dispatch),
            Output::Bid { .. } | Output::Pass { .. } => {
                Err(format!("{output:?} of a worker that serves one scheduler"))
            }
            Output::Probe(probe) => {
                let Probe { batch, worker, epoch, slot, model, attempt, .. } = *probe;
                self.sent(batch, slot, Batch::of(worker, epoch, attempt, model));
                Ok(())
            }
            Output::Calibrated { .. } => Ok(()),
            Output::Complete { request } => {
                let expected = self.step.completes.take();
                ensure(expected == Some(*request), || format!("completed {request}, expected {expected:?}"))
            }
            Output::Fail { request, why } => self.failed(*request, *why),
            Output::Late { request } => {
                let record = self.requests.get(request).ok_or_else(|| format!("{request} was never admitted"))?;
                // Who sheds may try one, and not another before that one has gone.
                let is_served = match self.on_late(record) {
                    Some(OnLate::Serve) => true,
                    Some(OnLate::Shed) => !self.queued().any(|(_, other)| other.model == record.model && other.late),
                    None => false,
                };
                let may_be_late =
                    record.state == State::Queued && record.suspect.is_none() && !record.late && is_served;
                ensure(may_be_late, || format!("{request} was given up as late: {record:?}"))?;
                self.requests.get_mut(request).into_iter().for_each(|record| record.late = true);
                Ok(())
            }
            Output::Reject { group, why } => self.rejected(*group, *why),
            Output::CancelRunning { worker, epoch, batch, requests } => {
                // In one step the same batch may lose some to their deadline and others to their client.
                let expected = self.step.unwanted.remove(&(*worker, *epoch, *batch)).unwrap_or_default();
                let (named, rest): (BTreeSet<_>, _) = expected.iter().partition(|id| requests.contains(id));
                let is_expected = !named.is_empty() && named.iter().eq(requests.iter().collect::<BTreeSet<_>>());
                ensure(is_expected, || format!("cancelled {requests:?} of batch {batch}, expected {expected:?}"))?;
                if !rest.is_empty() {
                    self.step.unwanted.insert((*worker, *epoch, *batch), rest);
                }
                Ok(())
            }
            Output::Replace { worker, epoch, batch } => {
                let overdue = self.overdue().find(|id| id == batch);
                let is_its =
                    self.batches.get(batch).is_some_and(|batch| (batch.worker, batch.epoch) == (*worker, *epoch));
                ensure(is_its && overdue.is_some(), || format!("batch {batch} is not overdue on worker {worker}"))?;
                self.take_down(*worker, DownCause::Crashed);
                Ok(())
            }
            Output::Drained => {
                let is_time = self.drain.is_some() && !self.has_drained && self.live().next().is_none();
                self.has_drained = true;
                ensure(is_time, || "drained too early or twice".into())
            }
            Output::Load { worker, model, .. } => {
                self.hold(*worker, *model, Holding::Loading);
                Ok(())
            }
            Output::Unload { worker, model, .. } => {
                self.hold(*worker, *model, Holding::Unloading);
                Ok(())
            }
        }
    }

    /// Says what should have come of the last input and did not.
    pub(crate) fn settled(&self) -> Result<(), String> {
        let step = &self.step;
        ensure(step.completes.is_none(), || format!("{:?} has a result and was not completed", step.completes))?;
        ensure(step.fails.is_empty(), || format!("should have failed: {:?}", step.fails))?;
        ensure(step.unwanted.is_empty(), || format!("should have been cancelled: {:?}", step.unwanted))?;
        ensure(step.refuses.is_none(), || format!("should have been refused: {:?}", step.refuses))?;
        let late = self.live().find(|(_, record)| record.expires <= self.now);
        ensure(late.is_none(), || format!("outlived its time: {late:?}"))?;
        let overdue = self.overdue().next();
        ensure(overdue.is_none(), || format!("batch {overdue:?} is overdue"))?;
        if self.drain.is_some_and(|deadline| deadline <= self.now || self.live().next().is_none()) {
            ensure(self.has_drained, || "the drain should have ended".into())?;
        }
        Ok(())
    }

    fn is_half_full(&self, of: &Record) -> bool {
        let queued = |is_its: &dyn Fn(&Record) -> bool| self.queued().filter(|(_, r)| is_its(r)).count() as u64;
        let bytes = self.queued().map(|(_, record)| record.cost.bytes).sum();
        [
            (queued(&|record| record.tenant == of.tenant), u64::from(self.limits.tenant_requests_max)),
            (queued(&|record| record.class == of.class), u64::from(self.limits.class_requests_max)),
            (bytes, self.limits.queue_bytes_max),
        ]
        .iter()
        .any(|(used, max): &(u64, u64)| *used >= max.div_ceil(2))
    }

    fn is_half_late(&self, model: ModelId) -> bool {
        let late = self.queued().filter(|(_, record)| record.model == model && record.late).count();
        self.models
            .get(&model)
            .is_some_and(|model| late as u64 >= u64::from(model.queue_requests_max.get().div_ceil(2)))
    }

    /// What becomes of a request that cannot be on time; `None` where its model's policy knows no lateness.
    fn on_late(&self, record: &Record) -> Option<OnLate> {
        match self.models.get(&record.model)?.policy {
            PolicyConfig::Learned { on_late, .. } => Some(on_late),
            _ => None,
        }
    }

    /// Requests that have no outcome yet.
    pub(crate) fn live(&self) -> impl Iterator<Item = (RequestId, &Record)> {
        self.requests.iter().map(|(id, record)| (*id, record)).filter(|(_, record)| record.state != State::Ended)
    }

    /// Whether a worker has what is left of a batch that failed.
    pub(crate) fn runs_suspects(&self, worker: &Worker) -> bool {
        let requests =
            worker.outstanding.iter().filter_map(|id| self.batches.get(id)).flat_map(|batch| &batch.requests);
        requests.filter_map(|id| self.requests.get(id)).any(|record| record.suspect.is_some())
    }

    /// Requests that wait for a worker.
    pub(crate) fn queued(&self) -> impl Iterator<Item = (RequestId, &Record)> {
        self.live().filter(|(_, record)| record.state == State::Queued)
    }

    fn dispatched(&mut self, dispatch: &Dispatch) -> Result<(), String> {
        let mut attempt = 0;
        let twin = if dispatch.close == CloseReason::Hedged { Some(self.hedged(dispatch)?) } else { None };
        self.batches_sent += u64::from(twin.is_none());
        self.hedges += u64::from(twin.is_some());
        let hedges_max = self.batches_sent * u64::from(self.limits.hedges_per_mille) / 1_000;
        ensure(self.hedges <= hedges_max, || format!("{} hedges", self.hedges))?;
        for id in &dispatch.requests {
            let record = self.requests.get_mut(id).ok_or_else(|| format!("sent {id}, which was never admitted"))?;
            record.sends += 1;
            record.expires = record.deadline;
            if let Some(twin) = twin {
                let is_free = record.state == State::Running(twin) && !record.hedged;
                ensure(is_free, || format!("hedged {id}, which is not in {twin} or was before: {record:?}"))?;
                record.hedged = true;
            } else {
                ensure(record.state == State::Queued, || format!("sent {id}, which is not queued: {record:?}"))?;
                record.state = State::Running(dispatch.batch);
            }
            attempt = attempt.max(record.sends);
        }
        ensure(dispatch.attempt == Attempt(attempt), || format!("attempt {} of {attempt}", dispatch.attempt))?;
        let batch = Batch::of(dispatch.worker, dispatch.epoch, dispatch.attempt, dispatch.model);
        self.sent(dispatch.batch, dispatch.slot, Batch { requests: dispatch.requests.clone(), twin, ..batch });
        Ok(())
    }

    /// A batch spends a credit and goes to its worker.
    fn sent(&mut self, id: BatchId, slot: Slot, mut batch: Batch) {
        let policy = self.models.get(&batch.model).map(|model| &model.policy);
        if let Some(worker) = self.workers.get_mut(&batch.worker) {
            worker.credits.remove(&slot);
            worker.may_be_slow |= matches!(policy, Some(PolicyConfig::Learned { .. }));
            batch.started = worker.outstanding.is_empty().then_some(self.now);
            worker.outstanding.push(id);
        }
        batch.time_max = self.models.get(&batch.model).map_or(Duration::MAX, |model| model.batch_time_max);
        self.batches.insert(id, batch);
    }

    /// The batch that a hedge runs beside: on another worker, whole and with no other.
    fn hedged(&mut self, dispatch: &Dispatch) -> Result<BatchId, String> {
        let states = dispatch.requests.iter().filter_map(|id| self.requests.get(id)).map(|record| record.state);
        let Some(State::Running(first)) = states.into_iter().next() else {
            return Err("hedged what is not running".into());
        };
        let is_suspect = |id: &RequestId| self.requests.get(id).is_some_and(|r| r.suspect.is_some());
        let may_be = |batch: &Batch| batch.worker != dispatch.worker && batch.twin.is_none();
        let is_right = self.batches.get(&first).is_some_and(may_be) && !dispatch.requests.iter().any(is_suspect);
        let is_idle = self.workers.get(&dispatch.worker).is_some_and(|worker| worker.outstanding.is_empty());
        ensure(is_right && is_idle, || format!("batch {first} was hedged by {dispatch:?}"))?;
        self.batches.get_mut(&first).into_iter().for_each(|batch| batch.twin = Some(dispatch.batch));
        Ok(first)
    }

    /// The other batch that runs this request as well.
    fn twin_with(&self, id: BatchId, request: RequestId) -> Option<BatchId> {
        let batch = self.batches.get(&id)?;
        let twin = batch.twin?;
        let is_in_both = batch.requests.contains(&request) && self.batches.get(&twin)?.requests.contains(&request);
        is_in_both.then_some(twin)
    }

    fn failed(&mut self, request: RequestId, why: Failure) -> Result<(), String> {
        if let Some(expected) = self.step.fails.remove(&request) {
            // Of several in one call that must fail at once, one does.
            let group = self.requests.get(&request).map(|record| record.group);
            let requests = &self.requests;
            self.step.fails.retain(|id, _| requests.get(id).map(|record| record.group) != group);
            return ensure(expected == why, || format!("{request} failed with {why:?}, expected {expected:?}"));
        }
        let record =
            self.requests.get(&request).ok_or_else(|| format!("failed {request}, which was never admitted"))?;
        let is_due = match why {
            // One that may not wait at all and found no worker at once.
            Failure::QueueTimeout => record.state == State::Queued && record.expires <= self.now,
            Failure::Drained => record.state != State::Ended && self.drain.is_some_and(|deadline| deadline <= self.now),
            Failure::Shed { retry_after } => {
                // One that is served although it is late goes when it would miss its client's deadline, too, or when half
                // of the queue is late.
                let may_go = match self.on_late(record) {
                    Some(OnLate::Shed) => true,
                    Some(OnLate::Serve) if record.late => record.deadline != Timestamp::MAX,
                    Some(OnLate::Serve) => self.is_half_late(record.model) || self.is_half_full(record),
                    None => false,
                };
                record.state == State::Queued
                    && record.suspect.is_none()
                    && may_go
                    && RETRY_AFTER.contains(&retry_after)
            }
            Failure::DeadlinePassed
            | Failure::Item
            | Failure::Poison
            | Failure::OutOfMemory
            | Failure::WorkerLost { .. }
            | Failure::ModelRemoved => false,
        };
        ensure(is_due, || format!("{request} failed with {why:?} and should not: {record:?}"))?;
        self.end(request);
        self.end_call_of(request);
        Ok(())
    }

    fn rejected(&mut self, group: GroupId, why: Reject) -> Result<(), String> {
        let refusal = match why {
            // What batches take is not in this account: it knows only who may be refused for it.
            Reject::DeadlineTooShort { .. } | Reject::DeadlineUnmeetable { .. } => {
                return self.unmeetable(group, why);
            }
            Reject::QueueFull { limit, retry_after } => {
                ensure(RETRY_AFTER.contains(&retry_after), || format!("try again after {retry_after:?}"))?;
                Refusal::Full(limit)
            }
            plain => Refusal::Plain(plain),
        };
        let expected = self.step.refuses.take();
        ensure(expected == Some((group, refusal)), || format!("refused {group} for {why:?}, expected {expected:?}"))
    }

    /// The core says that a group it has room for cannot meet its client's deadline.
    fn unmeetable(&mut self, group: GroupId, why: Reject) -> Result<(), String> {
        let members = || self.requests.iter().filter(|(_, record)| record.group == group);
        let first = members().next().map(|(_, record)| record);
        let has_room = self.step.refuses.is_none() && first.is_some_and(|record| record.arrived == self.now);
        ensure(has_room, || format!("refused {group} for {why:?}, expected {:?}", self.step.refuses))?;
        let is_untouched = members().all(|(_, record)| record.state == State::Queued && record.sends == 0);
        let is_just = match (first, why) {
            (Some(record), Reject::DeadlineTooShort { left, needed }) => {
                record.deadline == self.now + left && left < needed * 2
            }
            (Some(record), Reject::DeadlineUnmeetable { retry_after }) => {
                record.deadline != Timestamp::MAX && RETRY_AFTER.contains(&retry_after)
            }
            _ => false,
        };
        let is_held = |worker: &Worker| first.is_some_and(|of| worker.models.get(&of.model) == Some(&Holding::Ready));
        let is_known = self.workers.values().any(is_held);
        ensure(is_untouched && is_just && is_known, || format!("refused {group} for {why:?}: {first:?}"))?;
        self.requests.retain(|_, record| record.group != group);
        Ok(())
    }

    /// Why the core must refuse a group; `None` when it must take it.
    fn refusal(&self, group: &Group) -> Option<Refusal> {
        if self.drain.is_some() {
            return Some(Refusal::Plain(Reject::Draining));
        }
        let Some(model) = self.models.get(&group.model) else { return Some(Refusal::Plain(Reject::UnknownModel)) };
        if group.deadline.is_some_and(|deadline| deadline <= self.now) {
            return Some(Refusal::Plain(Reject::DeadlinePassed));
        }
        let fits = |cost: Cost| cost.rows <= model.batch_rows_max.get() && cost.tokens <= model.batch_tokens_max.get();
        if !group.requests.iter().all(|request| fits(request.cost)) {
            return Some(Refusal::Plain(Reject::RequestTooLarge));
        }
        let count =
            |is_its: &dyn Fn(&Record) -> bool| self.queued().filter(|(_, record)| is_its(record)).count() as u64;
        let more = group.requests.len() as u64;
        let bytes = group.requests.iter().map(|request| request.cost.bytes).sum();
        let bytes_queued = self.queued().map(|(_, record)| record.cost.bytes).sum();
        let of_model = count(&|record| record.model == group.model);
        let of_tenant = count(&|record| record.tenant == group.tenant);
        let of_class = count(&|record| record.class == group.class);
        let limits: [(QueueLimit, u64, u64, u64); 4] = [
            (QueueLimit::Model, of_model, more, model.queue_requests_max.get().into()),
            (QueueLimit::Tenant, of_tenant, more, self.limits.tenant_requests_max.into()),
            (QueueLimit::Class, of_class, more, self.limits.class_requests_max.into()),
            (QueueLimit::Bytes, bytes_queued, bytes, self.limits.queue_bytes_max),
        ];
        if limits.iter().any(|(_, _, more, max)| more > max) {
            return Some(Refusal::Plain(Reject::GroupTooLarge));
        }
        limits.iter().find(|(_, used, more, max)| used + more > *max).map(|(limit, ..)| Refusal::Full(*limit))
    }

    fn overdue(&self) -> impl Iterator<Item = BatchId> {
        let is_overdue = |batch: &Batch| batch.started.is_some_and(|started| started + batch.time_max <= self.now);
        self.batches.iter().filter(move |(_, batch)| is_overdue(batch)).map(|(id, _)| *id)
    }

    fn hold(&mut self, worker: WorkerId, model: ModelId, holding: Holding) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.models.insert(model, holding);
        }
    }
}

impl Batch {
    /// One without requests that nobody has begun.
    fn of(worker: WorkerId, epoch: Epoch, attempt: Attempt, model: ModelId) -> Self {
        let (requests, withdrawn) = (Vec::new(), BTreeSet::new());
        Self { worker, epoch, attempt, model, requests, withdrawn, started: None, time_max: Duration::MAX, twin: None }
    }
}

impl Record {
    /// What orders it in its class.
    pub(crate) fn key(&self, id: RequestId) -> (bool, Timestamp, RequestId) {
        (self.late, self.due, id)
    }
}

/// Whether a close reason says that a budget was used up.
pub(crate) fn is_budget(close: CloseReason) -> bool {
    matches!(close, CloseReason::Rows | CloseReason::Tokens | CloseReason::Bytes | CloseReason::Objective)
}

/// `Err` with the text unless it holds.
pub(crate) fn ensure(holds: bool, text: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(text()) }
}
