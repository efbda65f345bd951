//! Which batch goes to which worker, and the sending of it.

use alloc::vec::Vec;
use core::ops::Bound;
use core::time::Duration;

use super::Scheduler;
use crate::batch::Draft;
use crate::fleet::Holding;
use crate::inflight::Batch;
use crate::policy::{Close, Decision};
use crate::queue::Rank;
use crate::turns::{ByClass, WaitingFor};
use crate::{Attempt, Budget, Class, CloseReason, Dispatch, Epoch, ModelId, Output, Slot, Timestamp, WorkerId};

/// A batch that could be formed now.
#[derive(Clone, Copy, Debug)]
struct Choice {
    /// Of its most urgent request: what choices are compared by.
    rank: Rank,
    model: ModelId,
    worker: WorkerId,
    source: Source,
}

/// Where the batch would come from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The waiting requests, closed as the policy said.
    Waiting(Close),
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
            let choice = self.fleet.free_for(id).and_then(|worker| self.consider(id, worker, None));
            match choice {
                Some(choice) if best.is_none_or(|best| choice.rank < best.rank) => best = Some(choice),
                Some(_) => {}
                None => self.settle(id),
            }
        }
        let best = best?;
        let (turns, link) = (&self.fleet.get(best.worker)?.turns, self.fleet.link(best.worker)?);
        let turn = turns.classes_owed(best.rank.class).find_map(|class| self.choose_led_by(class, best.worker));
        let best = turn.unwrap_or(best);
        let mut owed = turns.models_owed(best.rank.class, link.ready_models().count());
        let turn = owed.find_map(|model| self.consider(model, best.worker, Some(best.rank.class)));
        Some(turn.unwrap_or(best))
    }

    /// The most urgent batch led by a class that this worker can take.
    fn choose_led_by(&self, class: Class, worker: WorkerId) -> Option<Choice> {
        let choices = self.stirred.iter().filter_map(|model| self.consider(*model, worker, Some(class)));
        choices.min_by_key(|choice| choice.rank)
    }

    /// What of a model could go to a worker now, led by a class if one is named.
    fn consider(&self, id: ModelId, worker: WorkerId, class: Option<Class>) -> Option<Choice> {
        let link = self.fleet.link(worker)?;
        let model = self.models.get(&id).filter(|_| link.is_ready(id))?;
        let (_, budget) = self.credit(id, worker)?;
        let part = model.queue.part_head(class).map(|rank| (rank, Source::Part(rank)));
        let waiting = match model.decide(self.now, budget, self.is_draining()) {
            Some(Decision::Close(close)) => model.queue.head(class).map(|rank| (rank, Source::Waiting(close))),
            Some(Decision::WaitUntil(_)) | None => None,
        };
        let (rank, source) = part.into_iter().chain(waiting).min_by_key(|(rank, _)| *rank)?;
        Some(Choice { rank, model: id, worker, source })
    }

    /// Nothing of this model can go now: notes when its policy wants to look again.
    fn settle(&mut self, id: ModelId) {
        self.stirred.remove(&id);
        let credit = self.fleet.free_for(id).and_then(|worker| self.credit(id, worker));
        let decision = self.models.get(&id).zip(credit);
        let decision = decision.and_then(|(model, (_, budget))| model.decide(self.now, budget, self.is_draining()));
        let wake = match decision {
            Some(Decision::WaitUntil(until)) => Some(until),
            Some(Decision::Close(_)) | None => None,
        };
        self.set_wake(id, wake);
    }

    /// The worker's credit to spend next, and what a batch of the model may hold under it.
    pub(super) fn credit(&self, id: ModelId, worker: WorkerId) -> Option<(Slot, Budget)> {
        let (slot, granted) = self.fleet.link(worker)?.best_credit()?;
        let budget = self.models.get(&id)?.budget(granted);
        Some((slot, self.fleet.cap(worker, id).apply(budget)))
    }

    /// Forms the batch and sends it.
    fn send(&mut self, choice: Choice) {
        let Choice { rank, model: id, worker, source } = choice;
        let (Some((slot, budget)), Some(model)) = (self.credit(id, worker), self.models.get_mut(&id)) else {
            // `consider` saw both in this very step. Should that ever cease to hold, the loop above must still end.
            self.stirred.remove(&id);
            return;
        };
        let mut draft = Draft::new(budget);
        let (close, rest) = match source {
            Source::Waiting(close) => (model.queue.fill(&mut draft, rank.class, close), Vec::new()),
            Source::Part(part) => (CloseReason::Isolated, model.queue.take_part(&mut draft, part)),
        };
        model.served.add(self.now, draft.requests.len() as u64);
        self.keep_apart(id, &rest);
        let dispatch = self.start(choice, slot, close, &draft);
        self.count_turn(choice, draft.classes);
        self.outputs.push_back(Output::Dispatch(dispatch));
    }

    /// Enters a formed batch into every table.
    fn start(&mut self, choice: Choice, slot: Slot, close: CloseReason, draft: &Draft) -> Dispatch {
        let Choice { model, worker, .. } = choice;
        let epoch = self.fleet.get(worker).map_or(Epoch(0), |worker| worker.epoch);
        let batch = self.inflight.next_id();
        let attempt = Attempt(self.run(&draft.requests, batch));
        self.inflight.insert(Batch {
            worker,
            epoch,
            model,
            attempt,
            requests: draft.requests.clone(),
            withdrawn: Vec::new(),
            rows: draft.rows,
            tokens: draft.tokens,
            isolated: matches!(choice.source, Source::Part(_)),
            time_max: self.models.get(&model).map_or(Duration::MAX, |model| model.config.batch_time_max),
            overdue: None,
        });
        self.fleet.spend(worker, slot, batch, draft.rows);
        self.stir_waiting();
        if self.fleet.link(worker).is_some_and(|link| link.outstanding.front() == Some(&batch)) {
            self.inflight.start_clock(batch, self.now);
        }
        Dispatch { batch, worker, epoch, slot, model, attempt, close, requests: draft.requests.clone() }
    }

    /// Keeps count of the turns on the worker of a batch.
    fn count_turn(&mut self, choice: Choice, taken: ByClass<bool>) {
        let Some(link) = self.fleet.link(choice.worker) else { return };
        let queue_of = |(id, holding): (&ModelId, &Holding)| {
            let classes = self.models.get(id)?.queue.classes();
            Some((*id, WaitingFor { is_ready: *holding == Holding::Ready, classes }))
        };
        let queues = link.holdings.iter().filter_map(queue_of).collect();
        if let Some(turns) = self.fleet.turns_mut(choice.worker) {
            turns.count(choice.model, choice.rank.class, taken, &queues);
        }
    }
}
