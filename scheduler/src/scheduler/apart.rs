//! Parts of batches that failed: no other batch is with their worker while they are.
//!
//! Whatever breaks a device takes along all that the device was given, and nobody can say which of it was to blame. So a
//! part goes to a worker that has nothing in hand, and that gets nothing more until it is through. Under load none ever has
//! nothing in hand: when it is a part's turn and none is idle, the worker whose turn it is is held. It gets nothing new
//! until it has ended what it has, and then the part. One worker is held for the parts of all models that it holds; the
//! others go on.

use alloc::vec::Vec;

use super::Scheduler;
use super::placement::{Choice, Source};
use crate::fleet::Link;
use crate::queue::Rank;
use crate::{Class, ModelId, WorkerId};

impl Scheduler {
    /// It is a part's turn: it goes to a worker that has nothing in hand, or waits for one.
    pub(super) fn send_apart(&mut self, choice: Choice) {
        let is_idle = self.fleet.link(choice.worker).is_some_and(|link| link.outstanding.is_empty());
        let idle = if is_idle { Some(choice.worker) } else { self.idle_for(choice.model) };
        match idle {
            // On another worker than it was chosen for it may be somebody else's turn.
            Some(worker) => {
                let part = Choice { worker, ..choice };
                self.send(self.turn(part).unwrap_or(part));
            }
            None => self.hold(choice.model, choice.worker),
        }
    }

    /// Parts that wait for a worker go to one that has come to have nothing in hand, unless that owes a turn to a class that
    /// is less urgent: then they wait for theirs. Nobody is held who is of no use to them, or for parts that are no more.
    pub(super) fn serve_held(&mut self) {
        let first = |id: &ModelId| self.models.get(id).and_then(|model| model.queue.first_part());
        let mut held: Vec<(Option<Rank>, ModelId)> = self.held.keys().map(|id| (first(id), *id)).collect();
        held.sort_unstable();
        for (part, model) in held {
            match (part, self.idle_for(model)) {
                (Some(rank), Some(worker)) if self.owes(worker, rank.class) => self.release(model),
                (Some(rank), Some(worker)) => {
                    self.release(model);
                    self.send(Choice { rank, model, worker, source: Source::Part(rank) });
                }
                (Some(_), None) if self.is_worth_holding(model) => {}
                (Some(_), None) | (None, _) => self.release(model),
            }
        }
    }

    /// A worker that holds the model, has a credit and nothing in hand: of several one that is as quick as others are. A part
    /// is never hedged, so none that is not trusted, while there is one that is.
    pub(super) fn idle_for(&self, id: ModelId) -> Option<WorkerId> {
        let model = self.models.get(&id)?;
        let with_credit = || self.fleet.holders(id).filter(|(_, link)| link.credits() > 0);
        let idle = with_credit().filter(|(_, link)| link.outstanding.is_empty());
        let idle = idle.map(|(worker, link)| (link.suspect.is_some(), model.is_slow(worker), worker));
        let (is_suspect, _, worker) = idle.min()?;
        let is_outdone = is_suspect && with_credit().any(|(_, link)| link.suspect.is_none());
        (!is_outdone).then_some(worker)
    }

    /// Whether it is the turn of a class that is less urgent than this one.
    fn owes(&self, worker: WorkerId, class: Class) -> bool {
        self.fleet.get(worker).is_some_and(|worker| worker.turns.classes_owed(class).next().is_some())
    }

    /// This worker gets nothing more until it is through, unless another one is held already that will do.
    fn hold(&mut self, id: ModelId, worker: WorkerId) {
        let holds = |held: &WorkerId| self.fleet.link(*held).is_some_and(|link| link.is_ready(id));
        let worker = self.held.values().copied().find(holds).unwrap_or(worker);
        self.held.insert(id, worker);
        self.set_held(id, worker, true);
    }

    fn release(&mut self, id: ModelId) {
        let Some(worker) = self.held.remove(&id) else { return };
        let is_held = self.held.values().any(|held| *held == worker);
        self.set_held(id, worker, is_held);
    }

    fn set_held(&mut self, id: ModelId, worker: WorkerId, is_held: bool) {
        self.fleet.hold(worker, is_held);
        if let Some(model) = self.models.get_mut(&id) {
            model.queue.hold_parts(self.held.contains_key(&id));
        }
        self.stirred.insert(id);
        self.stir_waiting();
    }

    /// Whether the worker that is held for a model's parts can still take them, as far as anybody knows when. One that has
    /// come to have nothing in hand, and did not get them, is not trusted any more.
    fn is_worth_holding(&self, id: ModelId) -> bool {
        let link = self.held.get(&id).and_then(|worker| self.fleet.link(*worker));
        let is_busy = |link: &Link| !link.outstanding.is_empty() && !link.is_stuck();
        link.is_some_and(|link| link.is_held && link.is_ready(id) && link.credits() > 0 && is_busy(link))
    }
}
