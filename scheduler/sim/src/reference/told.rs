//! What follows from each thing the core is told.

use std::collections::BTreeMap;

use shoal_scheduler::{
    Attempt, BatchFailure, BatchId, DownCause, Epoch, Failure, Group, GroupId, Input, ItemOutcome, ModelConfig,
    ModelState, PolicyConfig, RequestId, Timestamp, WorkerId,
};

use super::{Batch, Holding, Ledger, Record, State, Step, Worker};

impl Ledger {
    /// Takes down what the core was told, and foresees what must come of it.
    pub(crate) fn told(&mut self, at: Timestamp, input: &Input) {
        self.now = self.now.max(at);
        self.step = Step::default();
        self.expire();
        match input {
            Input::SubmitGroup(group) => self.submitted(group),
            Input::Cancel(group) => self.cancelled(*group),
            Input::WorkerUp { worker, epoch, device: _, models } => {
                if self.last_epochs.get(worker).is_none_or(|last| last < epoch) {
                    self.take_down(*worker, DownCause::Lost);
                    self.last_epochs.insert(*worker, *epoch);
                    let models = models.iter().map(|model| (*model, Holding::Untouched)).collect();
                    let (credits, outstanding) = (BTreeMap::new(), Vec::new());
                    self.workers
                        .insert(*worker, Worker { epoch: *epoch, models, credits, outstanding, may_be_slow: false });
                }
            }
            Input::WorkerOffers { worker, epoch, models } => {
                if let Some(worker) = self.current(*worker, *epoch) {
                    for model in models {
                        worker.models.entry(*model).or_insert(Holding::Untouched);
                    }
                }
            }
            Input::WorkerCredit { worker, epoch, slot, budget } => {
                if let Some(worker) = self.current(*worker, *epoch) {
                    worker.credits.insert(*slot, *budget);
                    worker.credits.retain(|_, budget| budget.rows > 0);
                }
            }
            // Workers of these worlds serve one scheduler.
            Input::WorkerTurn(_) | Input::BatchBegun { .. } => {}
            Input::ItemDone { worker, epoch, batch, attempt, request, outcome } => {
                self.item_done((*worker, *epoch, *batch, *attempt), *request, *outcome);
            }
            Input::BatchEnd { worker, epoch, batch, attempt, .. } => {
                if let Some((id, batch)) = self.close((*worker, *epoch, *batch, *attempt)) {
                    self.item_broke(id, &batch);
                }
            }
            Input::BatchFailed { worker, epoch, batch, attempt, reason } => {
                let Some((id, batch)) = self.close((*worker, *epoch, *batch, *attempt)) else { return };
                match reason {
                    BatchFailure::Item => self.item_broke(id, &batch),
                    BatchFailure::OutOfMemory => self.bisect(id, batch.requests.len() == 1, Failure::OutOfMemory),
                    BatchFailure::Device | BatchFailure::Timeout => self.lose(id),
                }
            }
            Input::WorkerDown { worker, epoch, cause } => {
                if self.current(*worker, *epoch).is_some() {
                    self.take_down(*worker, *cause);
                }
            }
            Input::ModelState { worker, epoch, model, state } => {
                if let Some(holding) = self.current(*worker, *epoch).and_then(|worker| worker.models.get_mut(model)) {
                    *holding = match (*holding, state) {
                        (Holding::Unloading, ModelState::Loading | ModelState::Ready) => Holding::Unloading,
                        (_, ModelState::Loading) => Holding::Loading,
                        (_, ModelState::Ready) => Holding::Ready,
                        (_, ModelState::Failed | ModelState::Unloaded) => Holding::Gone,
                    };
                }
            }
            Input::ConfigChanged(models) => self.configured(models),
            Input::Drain { deadline } => self.drain = Some(self.drain.map_or(*deadline, |old| old.min(*deadline))),
            Input::PagedIn { .. }
            | Input::Weights { .. }
            | Input::CostKnown { .. }
            | Input::Calibrate { .. }
            | Input::Tick => {}
        }
    }

    /// Ends a request; a worker that runs it must be told.
    pub(super) fn end(&mut self, id: RequestId) {
        let Some(record) = self.requests.get_mut(&id) else { return };
        let state = std::mem::replace(&mut record.state, State::Ended);
        let State::Running(at) = state else { return };
        for at in self.twin_with(at, id).into_iter().chain([at]) {
            let Some(batch) = self.batches.get_mut(&at) else { continue };
            batch.withdrawn.insert(id);
            self.step.unwanted.entry((batch.worker, batch.epoch, at)).or_default().insert(id);
        }
    }

    /// Foresees that a request fails, and its call with it.
    fn must_fail(&mut self, id: RequestId, why: Failure) {
        self.step.fails.insert(id, why);
        self.end(id);
        self.end_call_of(id);
    }

    /// A request failed: what is left of its call ends.
    pub(super) fn end_call_of(&mut self, id: RequestId) {
        let Some(group) = self.requests.get(&id).map(|record| record.group) else { return };
        self.cancelled(group);
    }

    /// Ends a worker's epoch. Only the first of its batches could have been running.
    pub(super) fn take_down(&mut self, id: WorkerId, cause: DownCause) {
        let Some(worker) = self.workers.remove(&id) else { return };
        let mut lost: Vec<_> =
            worker.outstanding.iter().filter_map(|id| Some((*id, self.batches.remove(id)?))).collect();
        lost.iter_mut().for_each(|(id, batch)| self.carry_on(*id, batch));
        for (position, (id, batch)) in lost.into_iter().enumerate() {
            match (position, cause) {
                (0, DownCause::Crashed) => self.bisect(id, batch.requests.len() == 1, Failure::Poison),
                (0, DownCause::Lost) => self.lose(id),
                _ => self.unreported(id).into_iter().for_each(|request| self.requeue(request)),
            }
        }
    }

    fn expire(&mut self) {
        let late: Vec<_> = self.live().filter(|(_, record)| record.expires <= self.now).map(|(id, _)| id).collect();
        for id in late {
            let has_deadline_passed = self.requests[&id].deadline <= self.now;
            let why = if has_deadline_passed { Failure::DeadlinePassed } else { Failure::QueueTimeout };
            self.must_fail(id, why);
        }
    }

    fn submitted(&mut self, group: &Group) {
        if let Some(refusal) = self.refusal(group) {
            self.step.refuses = Some((group.id, refusal));
            return;
        }
        let model = &self.models[&group.model];
        let deadline = group.deadline.unwrap_or(Timestamp::MAX);
        for request in &group.requests {
            let record = Record {
                group: group.id,
                model: group.model,
                tenant: group.tenant,
                class: group.class,
                cost: request.cost,
                arrived: self.now,
                deadline,
                due: deadline.min(self.now + model.objective),
                late: false,
                expires: deadline.min(self.now + model.queue_time_max),
                state: State::Queued,
                sends: 0,
                hedged: false,
                losses: 0,
                suspect: None,
            };
            self.requests.insert(request.id, record);
        }
    }

    fn cancelled(&mut self, group: GroupId) {
        let members: Vec<_> = self.live().filter(|(_, record)| record.group == group).map(|(id, _)| id).collect();
        members.into_iter().for_each(|id| self.end(id));
    }

    fn item_done(&mut self, address: Address, request: RequestId, outcome: ItemOutcome) {
        let (_, _, id, _) = address;
        let Some(batch) = self.batches.get_mut(&id).filter(|batch| batch.answers_to(address)) else { return };
        batch.withdrawn.remove(&request);
        let twin = self.twin_with(id, request);
        match self.requests.get_mut(&request) {
            Some(record) if record.state == State::Running(id) || twin.map(State::Running) == Some(record.state) => {
                record.state = State::Ended;
            }
            _ => return,
        }
        if let Some((at, twin)) = twin.and_then(|twin| Some((twin, self.batches.get_mut(&twin)?))) {
            // Only one that failed may be what breaks the other batch.
            if outcome == ItemOutcome::Failed {
                twin.withdrawn.insert(request);
            }
            self.step.unwanted.entry((twin.worker, twin.epoch, at)).or_default().insert(request);
        }
        match outcome {
            ItemOutcome::Ok => self.step.completes = Some(request),
            ItemOutcome::Failed => self.must_fail(request, Failure::Item),
        }
    }

    fn configured(&mut self, models: &[ModelConfig]) {
        self.models = models.iter().map(|model| (model.id, model.clone())).collect();
        // A request is late only to a policy that knows lateness; suspects keep what they were.
        let knows = |id| self.models.get(id).is_some_and(|model| matches!(model.policy, PolicyConfig::Learned { .. }));
        for record in self.requests.values_mut() {
            record.late &= knows(&record.model) || record.state != State::Queued || record.suspect.is_some();
        }
        let orphans = self.queued().filter(|(_, record)| !self.models.contains_key(&record.model));
        for id in orphans.map(|(id, _)| id).collect::<Vec<_>>() {
            self.must_fail(id, Failure::ModelRemoved);
        }
    }

    fn current(&mut self, worker: WorkerId, epoch: Epoch) -> Option<&mut Worker> {
        self.workers.get_mut(&worker).filter(|worker| worker.epoch == epoch)
    }

    /// Takes out a batch that ended; the next one of its worker begins.
    fn close(&mut self, address: Address) -> Option<(BatchId, Batch)> {
        let (worker, _, id, _) = address;
        self.batches.get(&id).filter(|batch| batch.answers_to(address))?;
        let mut batch = self.batches.remove(&id)?;
        self.carry_on(id, &mut batch);
        let outstanding = &mut self.workers.get_mut(&worker)?.outstanding;
        outstanding.retain(|outstanding| *outstanding != id);
        if let Some(next) = outstanding.first().and_then(|next| self.batches.get_mut(next)) {
            next.started = next.started.or(Some(self.now));
        }
        Some((id, batch))
    }

    /// A batch is over: what its twin runs as well is left to that.
    fn carry_on(&mut self, id: BatchId, batch: &mut Batch) {
        let Some(at) = batch.twin else { return };
        let Some(twin) = self.batches.get_mut(&at) else { return };
        twin.twin = None;
        for request in twin.requests.clone() {
            if let Some(record) = self.requests.get_mut(&request).filter(|record| record.state == State::Running(id)) {
                record.state = State::Running(at);
                batch.withdrawn.insert(request);
            }
        }
    }

    /// The requests of a batch that are without an outcome, in the order of their ids.
    fn unreported(&self, batch: BatchId) -> Vec<RequestId> {
        self.live().filter(|(_, record)| record.state == State::Running(batch)).map(|(id, _)| id).collect()
    }

    fn item_broke(&mut self, id: BatchId, batch: &Batch) {
        let is_alone = self.unreported(id).len() + batch.withdrawn.len() == 1;
        self.bisect(id, is_alone, Failure::Poison);
    }

    fn bisect(&mut self, id: BatchId, is_alone: bool, verdict: Failure) {
        let suspects = self.unreported(id);
        if let ([culprit], true) = (&suspects[..], is_alone) {
            self.set_state(*culprit, State::Ended);
            self.must_fail(*culprit, verdict);
            return;
        }
        let half = suspects.len().div_ceil(2);
        for request in suspects {
            if let Some(record) = self.requests.get_mut(&request) {
                record.suspect = Some((id, half));
                record.late = false;
            }
            self.requeue(request);
        }
    }

    fn lose(&mut self, id: BatchId) {
        let mut failed = Vec::new();
        for request in self.unreported(id) {
            let Some(record) = self.requests.get_mut(&request) else { continue };
            record.losses += 1;
            if record.losses >= self.limits.attempts_max.get() {
                let attempts = Attempt(record.losses);
                self.set_state(request, State::Ended);
                failed.push((request, Failure::WorkerLost { attempts }));
            } else {
                self.requeue(request);
            }
        }
        failed.into_iter().for_each(|(request, why)| self.must_fail(request, why));
    }

    fn requeue(&mut self, id: RequestId) {
        let Some(record) = self.requests.get_mut(&id) else { return };
        match self.models.get(&record.model) {
            Some(model) => {
                record.late &= matches!(model.policy, PolicyConfig::Learned { .. }) || record.suspect.is_some();
                record.state = State::Queued;
                record.expires = record.deadline.min(self.now + model.queue_time_max);
            }
            None => {
                record.state = State::Ended;
                self.must_fail(id, Failure::ModelRemoved);
            }
        }
    }

    fn set_state(&mut self, id: RequestId, state: State) {
        if let Some(record) = self.requests.get_mut(&id) {
            record.state = state;
        }
    }
}

type Address = (WorkerId, Epoch, BatchId, Attempt);

impl Batch {
    fn answers_to(&self, (worker, epoch, _, attempt): Address) -> bool {
        (self.worker, self.epoch, self.attempt) == (worker, epoch, attempt)
    }
}
