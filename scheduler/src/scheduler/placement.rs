//! Which batch goes to which worker, and the sending of it.

use alloc::vec::Vec;
use core::ops::Bound;
use core::time::Duration;

use super::Scheduler;
use crate::batch::{Ceiling, Draft};
use crate::fleet::Holding;
use crate::inflight::Batch;
use crate::policy::{Close, Decision};
use crate::queue::Rank;
use crate::turns::{ByClass, WaitingFor};
use crate::{
    Attempt, Budget, Class, CloseReason, Dispatch, Epoch, ModelId, Output, RequestId, Slot, Timestamp, WorkerId,
};

/// A batch that could be formed now.
#[derive(Clone, Copy, Debug)]
struct Choice {
    /// Of its most urgent request.
    rank: Rank,
    /// When it must start at the latest for that request to be on time.
    start: Timestamp,
    model: ModelId,
    worker: WorkerId,
    source: Source,
}

impl Choice {
    /// What choices are compared by.
    fn urgency(&self) -> (bool, Class, Timestamp, Rank) {
        (self.rank.late, self.rank.class, self.start, self.rank)
    }
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
enum Source {
    /// The waiting requests, closed as the policy said.
    Waiting(Close),
    /// Late requests alone, for so long at most.
    Late(Duration),
    /// One part of a batch that failed.
    Part(Rank),
}

impl Scheduler {
    /// Forms and sends batches while there is a credit that some queued request can use.
    ///
    /// Only models that were stirred since the last call are looked at. The others cannot have become dispatchable:
    /// they had no work, no credit, or a policy that waits, and nothing of that changed.
    pub(super) fn dispatch(&mut self) {
        while let Some(choice) = self.choose() {
            self.send(choice);
        }
    }

    /// A worker's load or credits changed: models whose policy waits may now be offered another budget.
    pub(super) fn stir_waiting(&mut self) {
        self.stirred.extend(self.wakes.iter().map(|(_, model)| *model));
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
        }
        if let Some(at) = wake {
            self.wakes.insert((at, id));
        }
    }

    /// The most urgent batch that can go now, unless it is somebody else's turn on its worker.
    fn choose(&mut self) -> Option<Choice> {
        let mut best: Option<Choice> = None;
        let mut next = self.stirred.first().copied();
        while let Some(id) = next {
            next = self.stirred.range((Bound::Excluded(id), Bound::Unbounded)).next().copied();
            if let Some(worker) = self.worker_for(id) {
                self.give_up_late(id, worker);
            }
            // Without those another worker may suit it better.
            let choice = self.worker_for(id).and_then(|worker| self.consider(id, worker, None));
            match choice {
                Some(choice) if best.is_none_or(|best| choice.urgency() < best.urgency()) => best = Some(choice),
                Some(_) => {}
                None => self.settle(id),
            }
        }
        let best = best?;
        let (turns, link) = (&self.fleet.get(best.worker)?.turns, self.fleet.link(best.worker)?);
        let turn = turns.classes_owed(best.rank.class).find_map(|class| self.choose_led_by(class, best.worker));
        let best = turn.unwrap_or(best);
        if turns.is_late_owed()
            && let Some(late) = self.choose_late(best.worker)
        {
            return Some(late);
        }
        let mut owed = turns.models_owed(best.rank.class, link.ready_models().count());
        let turn = owed.find_map(|model| self.consider(model, best.worker, Some(best.rank.class)));
        Some(turn.unwrap_or(best))
    }

    /// The most urgent batch led by a class that this worker can take.
    fn choose_led_by(&self, class: Class, worker: WorkerId) -> Option<Choice> {
        let choices = self.stirred.iter().filter_map(|model| self.consider(*model, worker, Some(class)));
        choices.min_by_key(Choice::urgency)
    }

    /// The most urgent batch of late requests that this worker can take.
    fn choose_late(&self, worker: WorkerId) -> Option<Choice> {
        let link = self.fleet.link(worker)?;
        let of = |id: &ModelId| {
            let model = self.models.get(id).filter(|_| link.is_ready(*id))?;
            let rank = model.queue.late_items().next()?.rank;
            Some(Choice { rank, start: rank.due, model: *id, worker, source: Source::Late(model.late_time_max()) })
        };
        self.stirred.iter().filter_map(of).min_by_key(Choice::urgency)
    }

    /// What of a model could go to a worker now, led by a class if one is named.
    fn consider(&self, id: ModelId, worker: WorkerId, class: Option<Class>) -> Option<Choice> {
        let link = self.fleet.link(worker)?;
        let model = self.models.get(&id).filter(|_| link.is_ready(id))?;
        let view = self.view(id, worker)?;
        let part = model.queue.part_head(class).map(|rank| (rank, Source::Part(rank)));
        let waiting = match model.decide(&view, self.is_draining()) {
            Some(Decision::Close(close)) => model.queue.head(class).map(|rank| (rank, Source::Waiting(close))),
            Some(Decision::WaitUntil(_)) | None => None,
        };
        let (rank, source) = part.into_iter().chain(waiting).min_by_key(|(rank, _)| *rank)?;
        let time = match source {
            Source::Waiting(Close { time_max: Some(time_max), .. }) => {
                model.costs.high(worker, model.queue.on_time().size()).min(time_max)
            }
            Source::Waiting(_) | Source::Late(_) | Source::Part(_) => Duration::ZERO,
        };
        Some(Choice { rank, start: rank.due - time, model: id, worker, source })
    }

    /// Nothing of this model can go now: notes when its policy wants to look again.
    fn settle(&mut self, id: ModelId) {
        self.stirred.remove(&id);
        let wake = match self.decision(id) {
            Some(Decision::WaitUntil(until)) => Some(until),
            Some(Decision::Close(_)) | None => None,
        };
        self.set_wake(id, wake);
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
    fn send(&mut self, choice: Choice) {
        let Choice { rank, model: id, worker, source, .. } = choice;
        let (Some((slot, budget)), Some(model)) = (self.credit(id, worker), self.models.get_mut(&id)) else {
            // `consider` saw both in this very step. Should that ever cease to hold, the loop above must still end.
            self.stirred.remove(&id);
            return;
        };
        let ceiling = |time_max| Ceiling { costs: &model.costs, worker, now: self.now, time_max, due: Timestamp::MAX };
        let (draft, close, rest) = match source {
            Source::Waiting(close) => {
                let mut draft = Draft::new(budget, close.time_max.map(ceiling));
                let why = model.queue.fill(&mut draft, rank.class, close);
                (draft, why, Vec::new())
            }
            Source::Late(time_max) => {
                let mut draft = Draft::new(budget, Some(ceiling(time_max)));
                let why = model.queue.fill_late(&mut draft);
                (draft, why, Vec::new())
            }
            Source::Part(part) => {
                let mut draft = Draft::new(budget, None);
                let rest = model.queue.take_part(&mut draft, part);
                (draft, CloseReason::Isolated, rest)
            }
        };
        let formed = Formed {
            expected: model.costs.expected(worker, draft.size()),
            rows: draft.rows,
            tokens: draft.tokens,
            squares: draft.size().squares,
            classes: draft.classes,
            requests: draft.requests,
        };
        model.served.add(self.now, formed.requests.len() as u64);
        self.keep_apart(id, &rest);
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
            expected: formed.expected,
            started: None,
            isolated: matches!(choice.source, Source::Part(_)),
            is_probe: false,
            time_max: self.models.get(&model).map_or(Duration::MAX, |model| model.config.batch_time_max),
            overdue: None,
        });
        self.fleet.spend(worker, slot, batch, formed.rows);
        if let Some(link) = self.fleet.link_mut(worker) {
            link.free_at = link.free_at.max(self.now) + formed.expected;
        }
        self.stir_waiting();
        if self.fleet.link(worker).is_some_and(|link| link.outstanding.front() == Some(&batch)) {
            self.inflight.start_clock(batch, self.now);
        }
        Dispatch { batch, worker, epoch, slot, model, attempt, close, requests: formed.requests }
    }

    /// Keeps count of the turns on the worker of a batch.
    fn count_turn(&mut self, choice: Choice, taken: ByClass<bool>) {
        let Some(link) = self.fleet.link(choice.worker) else { return };
        let queue_of = |(id, holding): (&ModelId, &Holding)| {
            let classes = self.models.get(id)?.queue.classes();
            Some((*id, WaitingFor { is_ready: *holding == Holding::Ready, classes }))
        };
        let queues = link.holdings.iter().filter_map(queue_of).collect();
        let is_late = |id: ModelId| self.models.get(&id).is_some_and(|model| model.queue.late().requests > 0);
        let is_late_waiting = link.ready_models().any(is_late);
        if let Some(turns) = self.fleet.turns_mut(choice.worker) {
            turns.count_late(is_late_waiting, choice.rank.late);
            turns.count(choice.model, choice.rank.class, taken, &queues);
        }
    }
}
