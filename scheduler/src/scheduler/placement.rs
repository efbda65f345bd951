//! Which batch goes to which worker, and the sending of it.

use alloc::vec::Vec;
use core::time::Duration;

use super::Scheduler;
use crate::batch::{Ceiling, Draft};
use crate::cost::Size;
use crate::fleet::Link;
use crate::inflight::Batch;
use crate::policy::{Close, Decision};
use crate::pools::{Heads, PoolId};
use crate::queue::Rank;
use crate::turns::ByClass;
use crate::{
    Attempt, BatchId, Budget, Class, CloseReason, Dispatch, Epoch, ModelId, Output, RequestId, Slot, Timestamp,
    WorkerId,
};

/// Models that are looked at before each batch for requests to give up, at most.
const LOOKS_MAX: u32 = 32;

/// A batch that could be formed now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    /// Of its most urgent request.
    pub(super) rank: Rank,
    pub(super) model: ModelId,
    pub(super) worker: WorkerId,
    pub(super) source: Source,
}

/// A batch that was formed.
#[derive(Debug)]
struct Formed {
    requests: Vec<RequestId>,
    rows: u32,
    tokens: u32,
    squares: u64,
    classes: ByClass<bool>,
    /// How long it should take.
    expected: Duration,
}

/// Where the batch would come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// The waiting requests, closed as the policy said.
    Waiting(Close),
    /// Late requests alone, for so long at most.
    Late(Duration),
    /// One part of a batch that failed.
    Part(Rank),
}

impl Formed {
    fn size(&self) -> Size {
        Size { rows: self.rows.into(), tokens: self.tokens.into(), squares: self.squares }
    }
}

impl Scheduler {
    /// Forms and sends batches while there is a credit that some queued request can use.
    ///
    /// Models that wait for a worker are listed by when they must start, so that only the most urgent one is looked at.
    /// One whose policy waits is taken off the list, until something of it changes or the policy wants to look again.
    pub(super) fn dispatch(&mut self) {
        if self.is_sharing {
            return self.bid();
        }
        self.serve_held();
        if self.fleet.credits() == 0 {
            return self.put_off();
        }
        while let Some(choice) = self.choose() {
            match choice.source {
                Source::Part(_) => self.send_apart(choice),
                Source::Waiting(_) | Source::Late(_) => self.send(choice),
            }
        }
    }

    /// A worker's load or credits changed. Who waits for a worker in time may have found one; and if workers now offer
    /// something else than before, whoever waits for a fuller batch must be asked anew what a full one is.
    pub(super) fn stir_waiting(&mut self) {
        self.stirred.extend(self.seeking.iter().copied());
        if self.fleet.has_new_offer() {
            self.stirred.extend(self.wakes.iter().map(|(_, model)| *model));
        }
    }

    /// Models whose policy asked to look again are looked at again.
    pub(super) fn wake_policies(&mut self) {
        while let Some((at, model)) = self.wakes.first().copied()
            && at <= self.now
        {
            self.set_wake(model, None);
            self.stirred.insert(model);
        }
    }

    /// Forgets when a model's policy wanted to be woken, or notes it.
    pub(super) fn set_wake(&mut self, id: ModelId, wake: Option<Timestamp>) {
        let Some(model) = self.models.get_mut(&id) else { return };
        if let Some(old) = core::mem::replace(&mut model.wake, wake) {
            self.wakes.remove(&(old, id));
            model.waits.set_policy(self.now, None);
            self.seeking.remove(&id);
        }
        if let Some(at) = wake {
            self.wakes.insert((at, id));
        }
    }

    /// The worker now holds something else than before.
    pub(super) fn regroup(&mut self, worker: WorkerId) {
        self.list_unlisted();
        let is_first = self.fleet.regroup(worker);
        if let Some(link) = self.fleet.link(worker).filter(|_| is_first) {
            for id in link.ready_models() {
                if let Some(model) = self.models.get_mut(&id) {
                    model.is_listed_everywhere = false;
                    self.stirred.insert(id);
                }
            }
        }
        self.stir_waiting();
    }

    /// The most urgent batch that can go now, unless it is somebody else's turn on its worker.
    ///
    /// Whether a model must give requests up is looked at when it is the most urgent. What is left of it may be less so.
    fn choose(&mut self) -> Option<Choice> {
        let mut looks = 0;
        loop {
            self.list_stirred();
            let id = self.fleet.pools.most_urgent()?;
            let worker = self.worker_for(id)?;
            let listed = self.models.get(&id)?.listed;
            self.give_up_late(id, worker);
            self.list_stirred();
            looks += 1;
            if self.models.get(&id)?.listed != listed && (looks < LOOKS_MAX || !self.is_active(id)) {
                continue;
            }
            // Another worker may suit what is left better.
            let Some(best) = self.worker_for(id).and_then(|worker| self.consider(id, worker, None)) else {
                self.settle(id)?;
                continue;
            };
            let turn = self.turn(best).unwrap_or(best);
            if turn.model != id {
                let listed = self.models.get(&turn.model)?.listed;
                self.give_up_late(turn.model, turn.worker);
                self.list_stirred();
                if self.models.get(&turn.model)?.listed != listed {
                    continue;
                }
            }
            return Some(turn);
        }
    }

    /// Whether the model has a request that can still be on time.
    fn is_active(&self, id: ModelId) -> bool {
        self.models.get(&id).is_some_and(|model| model.is_active)
    }

    /// Models of which something changed are listed anew.
    fn list_stirred(&mut self) {
        self.put_off();
        self.list_unlisted();
    }

    /// Models of which something changed are to be listed anew when a worker is free: until then nobody looks.
    fn put_off(&mut self) {
        while let Some(id) = self.stirred.pop_first() {
            self.set_wake(id, None);
            self.unlisted.insert(id);
        }
    }

    /// Makes the workers' lists say how everything was before this input.
    pub(super) fn list_unlisted(&mut self) {
        while let Some(id) = self.unlisted.pop_first() {
            self.list(id);
        }
    }

    /// Whose turn it is instead on the worker of the most urgent batch.
    pub(super) fn turn(&self, best: Choice) -> Option<Choice> {
        let turns = &self.fleet.get(best.worker)?.turns;
        let pool = self.fleet.link(best.worker)?.pool()?;
        let best = turns
            .classes_owed(best.rank.class)
            .find_map(|class| self.choose_led_by(class, pool, best.worker))
            .unwrap_or(best);
        if turns.is_late_owed()
            && let Some(late) = self.choose_late(pool, best.worker)
        {
            return Some(late);
        }
        Some(best)
    }

    /// The most urgent batch led by a class that this worker can take.
    fn choose_led_by(&self, class: Class, pool: PoolId, worker: WorkerId) -> Option<Choice> {
        self.fleet.pools.waiting(pool, class).find_map(|model| self.consider(model, worker, Some(class)))
    }

    /// The most urgent batch of late requests that this worker can take.
    fn choose_late(&self, pool: PoolId, worker: WorkerId) -> Option<Choice> {
        let id = self.fleet.pools.waiting_late(pool).next()?;
        let model = self.models.get(&id)?;
        let rank = model.queue.first_late()?.rank;
        Some(Choice { rank, model: id, worker, source: Source::Late(model.late_time_max()) })
    }

    /// What of a model could go to a worker now, led by a class if one is named.
    pub(super) fn consider(&self, id: ModelId, worker: WorkerId, class: Option<Class>) -> Option<Choice> {
        let link = self.fleet.link(worker)?;
        let model = self.models.get(&id).filter(|_| link.is_ready(id))?;
        let view = self.view(id, worker)?;
        let part = model.queue.part_head(class).map(|rank| (rank, Source::Part(rank)));
        let waiting = match model.decide(&view, self.is_draining()) {
            Some(Decision::Close(close)) => model.queue.head(class).map(|rank| (rank, Source::Waiting(close))),
            // A worker that is of no use to who can be on time is of use to who cannot.
            Some(Decision::WaitUntil(_)) if view.hold_until.is_none() && model.is_late_on(worker, self.now) => {
                let late = model.queue.first_late().filter(|_| class.is_none());
                late.map(|item| (item.rank, Source::Late(model.late_time_max())))
            }
            Some(Decision::WaitUntil(_)) | None => None,
        };
        let (rank, source) = part.into_iter().chain(waiting).min_by_key(|(rank, _)| *rank)?;
        Some(Choice { rank, model: id, worker, source })
    }

    /// Tells the workers' lists what the model waits with.
    pub(super) fn list(&mut self, id: ModelId) {
        let workers = self.fleet.ready(id);
        let Some(model) = self.models.get_mut(&id) else { return };
        let heads = model.heads(workers);
        let is_active = model.queue.on_time().requests > 0;
        if core::mem::replace(&mut model.is_active, is_active) != is_active {
            self.active = if is_active { self.active + 1 } else { self.active - 1 };
        }
        let is_fresh = !core::mem::replace(&mut model.is_listed_everywhere, true);
        if is_fresh || model.listed != heads {
            self.fleet.pools.list(id, &model.listed, &heads, is_fresh);
            model.listed = heads;
        }
    }

    /// Takes a model that is no more off the lists.
    pub(super) fn unlist(&mut self, id: ModelId, listed: &Heads, was_active: bool) {
        self.active -= usize::from(was_active);
        self.fleet.pools.list(id, listed, &Heads::default(), false);
    }

    /// Nothing of this model can go now, because its policy waits: notes when it wants to look again.
    fn settle(&mut self, id: ModelId) -> Option<()> {
        let worker = self.worker_for(id)?;
        let Some(Decision::WaitUntil(until)) = self.decision(id) else { return None };
        self.set_wake(id, Some(until));
        self.note_policy_waits(id, worker);
        let model = self.models.get(&id)?;
        if model.is_late_on(worker, self.now) || model.is_slow(worker) {
            self.seeking.insert(id);
        }
        self.list(id);
        Some(())
    }

    /// The worker that a batch of the model would go to now.
    pub(super) fn worker_for(&self, id: ModelId) -> Option<WorkerId> {
        let model = self.models.get(&id)?;
        self.fleet.free_for(id, |worker| model.is_late_on(worker, self.now), |worker| model.is_slow(worker))
    }

    /// What the model's policy says about its queue, if a worker that holds it has a credit and something waits.
    pub(super) fn decision(&self, id: ModelId) -> Option<Decision> {
        let view = self.view(id, self.worker_for(id)?)?;
        self.models.get(&id)?.decide(&view, self.is_draining())
    }

    /// The worker's credit to spend next, and what a batch of the model may hold under it.
    pub(super) fn credit(&self, id: ModelId, worker: WorkerId) -> Option<(Slot, Budget)> {
        let (slot, granted) = self.fleet.link(worker)?.best_credit()?;
        let budget = self.models.get(&id)?.budget(granted);
        Some((slot, self.fleet.cap(worker, id).apply(budget)))
    }

    /// Forms the batch and sends it.
    pub(super) fn send(&mut self, choice: Choice) {
        let Choice { rank, model: id, worker, source } = choice;
        let (Some((slot, budget)), Some(model)) = (self.credit(id, worker), self.models.get_mut(&id)) else {
            // `consider` saw both in this very step.
            return;
        };
        let (costs, now, due) = (&model.costs, self.now, Timestamp::MAX);
        let ceiling = |time_max, why| Ceiling { costs, worker, now, time_max, why, due };
        let (draft, close, rest) = match source {
            Source::Waiting(close) => {
                let mut draft =
                    Draft::new(budget, close.time_max.map(|time| ceiling(time, close.why_time)), self.company);
                let why = model.queue.fill(&mut draft, rank.class, close);
                (draft, why, Vec::new())
            }
            Source::Late(time_max) => {
                let mut draft = Draft::new(budget, Some(ceiling(time_max, CloseReason::Late)), self.company);
                let why = model.queue.fill_late(&mut draft);
                (draft, why, Vec::new())
            }
            Source::Part(part) => {
                let mut draft = Draft::new(budget, None, self.company);
                let rest = model.queue.take_part(&mut draft, part);
                (draft, CloseReason::Isolated, rest)
            }
        };
        let formed = Formed {
            expected: model.costs.expected(worker, self.company.with(draft.size())),
            rows: draft.rows,
            tokens: draft.tokens,
            squares: draft.size().squares,
            classes: draft.classes,
            requests: draft.requests,
        };
        model.served.add(self.now, formed.requests.len() as u64);
        model.count_got(formed.expected, &mut self.fair);
        self.keep_apart(id, &rest);
        self.list(id);
        self.count_turn(choice, formed.classes);
        let dispatch = self.start(choice, slot, close, formed);
        self.outputs.push_back(Output::Dispatch(dispatch));
    }

    /// Enters a formed batch into every table.
    fn start(&mut self, choice: Choice, slot: Slot, close: CloseReason, formed: Formed) -> Dispatch {
        let Choice { model, worker, .. } = choice;
        let epoch = self.fleet.get(worker).map_or(Epoch(0), |worker| worker.epoch);
        let batch = self.inflight.next_id();
        let attempt = Attempt(self.run(model, &formed.requests, batch));
        self.inflight.insert(Batch {
            worker,
            epoch,
            model,
            attempt,
            requests: formed.requests.clone(),
            withdrawn: Vec::new(),
            rows: formed.rows,
            tokens: formed.tokens,
            squares: formed.squares,
            others: Size::default(),
            begun: !self.is_sharing,
            sent: self.now,
            expected: formed.expected,
            started: None,
            page_in: Duration::ZERO,
            isolated: matches!(choice.source, Source::Part(_)),
            is_hedge: false,
            twin: None,
            spared: 0,
            patience: self.patience(model, worker, formed.size()),
            slow_at: None,
            is_probe: false,
            time_max: self.models.get(&model).map_or(Duration::MAX, |model| model.config.batch_time_max),
            overdue: None,
        });
        self.hedges.earn();
        self.hand_over(worker, slot, batch, formed.rows, formed.expected);
        Dispatch { batch, worker, epoch, slot, model, attempt, close, requests: formed.requests }
    }

    /// Enters a batch that is in flight into the table of its worker.
    pub(super) fn hand_over(&mut self, worker: WorkerId, slot: Slot, batch: BatchId, rows: u32, expected: Duration) {
        let sent = self.inflight.get(batch).map(|batch| (batch.model, batch.isolated));
        self.fleet.spend(worker, slot, batch, rows, sent.is_some_and(|(_, is_apart)| is_apart));
        if let Some((model, _)) = sent {
            self.expect_weights(model, worker);
        }
        if let Some(link) = self.fleet.link_mut(worker) {
            link.free_at = link.free_at.max(self.now) + expected;
        }
        self.fleet.place(worker);
        self.stir_waiting();
        self.stir_for_suspects();
        if self.fleet.link(worker).is_some_and(|link| link.outstanding.front() == Some(&batch)) {
            self.inflight.start_clock(batch, self.now);
        }
    }

    /// Keeps count of the turns on the worker of a batch.
    fn count_turn(&mut self, choice: Choice, taken: ByClass<bool>) {
        let Some(pool) = self.fleet.link(choice.worker).and_then(Link::pool) else { return };
        let pools = &self.fleet.pools;
        let waiting = Class::ALL.map(|class| pools.waiting(pool, class).next().is_some());
        let is_late_waiting = pools.waiting_late(pool).next().is_some();
        if let Some(turns) = self.fleet.turns_mut(choice.worker) {
            turns.count_late(is_late_waiting, choice.rank.late);
            turns.count(taken, waiting);
        }
    }
}
