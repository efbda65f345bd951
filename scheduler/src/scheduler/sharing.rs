//! Workers that serve other schedulers as well: what is wanted of them, and what is sent when a turn comes.
//!
//! A credit that lies about would keep a worker idle that others want, so there is none. The core says of each worker and
//! model what waits and until when it has to start; the worker gives a turn; the core answers at once, with a batch or
//! with a pass. A turn is never held, so none has to be taken back.

use alloc::vec::Vec;
use core::time::Duration;

use super::Scheduler;
use super::placement::{Choice, Source};
use super::replies::Address;
use crate::company::Company;
use crate::cost::Size;
use crate::policy::Decision;
use crate::{Budget, ModelId, Output, Timestamp, Turn, TurnKind, Want, WorkerId};

/// What is to be done about a model's queue on one worker: what to ask for now, and when to look again.
#[derive(Default)]
pub(super) struct Next {
    pub(super) want: Option<Want>,
    /// Those that can still be on time wait till then.
    wait_until: Option<Timestamp>,
}

impl Scheduler {
    /// Tells workers what is wanted of them of every model that was stirred since the last call, where that is news.
    pub(super) fn bid(&mut self) {
        while let Some(id) = self.stirred.first() {
            let holds = self.fleet.connected().filter(|(_, _, link)| link.is_ready(id));
            let workers: Vec<_> = holds.map(|(worker, epoch, _)| (worker, epoch)).collect();
            if let Some((worker, _)) = workers.first() {
                self.give_up_hopeless(id, *worker);
            }
            self.stirred.remove(id);
            self.withdraw_bids(id);
            let late_from = workers.iter().filter_map(|(worker, _)| self.late_from(id, *worker));
            let mut wake = late_from.filter(|at| *at > self.now).min();
            let mut waiting = None;
            for (worker, epoch) in workers {
                let Next { want, wait_until } = self.next_for(id, worker);
                if let Some(until) = wait_until {
                    wake = Some(wake.map_or(until, |wake| wake.min(until)));
                    waiting = Some(worker);
                }
                if self.bids.set(worker, id, want) {
                    self.outputs.push_back(Output::Bid { worker, epoch, model: id, want });
                }
            }
            self.set_wake(id, wake);
            if let Some(worker) = waiting {
                self.note_policy_waits(id, worker);
            }
            self.list(id);
        }
    }

    /// A worker's turn: a batch goes now, or none does.
    pub(super) fn take_turn(&mut self, turn: Turn) {
        let Turn { worker, epoch, slot, model, budget, .. } = turn;
        if !self.check_epoch(worker, epoch) {
            return;
        }
        if self.bids.budget(worker) != budget {
            // What fills a batch is known only now.
            self.stirred.extend(self.models.keys().copied());
        }
        self.bids.spend(worker, model, budget);
        self.stirred.insert(model);
        let choice = if self.fleet.grant(worker, slot, budget) { self.choose_for(&turn) } else { None };
        match choice {
            Some(choice) => self.send(choice),
            None => self.outputs.push_back(Output::Pass { worker, epoch, slot }),
        }
        self.company = Company::NONE;
        self.fleet.grant(worker, slot, Budget { rows: 0, ..budget });
    }

    /// A worker began to run a batch, after it lay there for so long, as one with so much of others.
    pub(super) fn batch_begun(&mut self, address: Address, others: Size, waited: Duration) {
        if !self.is_current(address) {
            self.replies_dropped += 1;
            return;
        }
        let (worker, _, id, _) = address;
        if self.fleet.link(worker).is_some_and(|link| link.outstanding.front() == Some(&id)) {
            self.inflight.start_clock(id, self.now);
        }
        self.inflight.begin(id, others, waited);
        // What it was thought to take was said before it was known who comes along.
        let Some(batch) = self.inflight.get(id) else { return };
        let expected =
            self.models.get(&batch.model).map_or(batch.expected, |model| model.costs.expected(worker, batch.size()));
        let ends = batch.started.unwrap_or(self.now) + expected;
        let Some(link) = self.fleet.link_mut(worker) else { return };
        let behind = link.outstanding.iter().skip_while(|outstanding| **outstanding != id).skip(1);
        let behind = behind.filter_map(|id| self.inflight.get(*id));
        link.free_at = behind.fold(ends, |at, batch| at + batch.expected);
        self.fleet.place(worker);
    }

    /// Takes back what was wanted of workers that do not hold the model any more.
    fn withdraw_bids(&mut self, id: ModelId) {
        let holds = |worker: WorkerId| self.fleet.link(worker).is_some_and(|link| link.is_ready(id));
        let told = self.bids.iter().filter(|(worker, model, _)| *model == id && !holds(*worker));
        for worker in told.map(|(worker, _, _)| worker).collect::<Vec<_>>() {
            self.bids.set(worker, id, None);
            let Some(epoch) = self.fleet.get(worker).map(|worker| worker.epoch) else { continue };
            self.outputs.push_back(Output::Bid { worker, epoch, model: id, want: None });
        }
    }

    /// The batch to send in a turn.
    fn choose_for(&mut self, turn: &Turn) -> Option<Choice> {
        let Turn { worker, model: id, kind, own, others, .. } = *turn;
        self.fleet.link(worker).filter(|link| link.is_ready(id))?;
        let (rank, source) = match kind {
            TurnKind::OnTime(class) => {
                self.company = Company::new(own, others);
                self.give_up_late(id, worker);
                let (view, model) = (self.view(id, worker)?, self.models.get(&id)?);
                let Decision::Close(close) = model.decide(&view, self.is_draining())? else { return None };
                let rank = model.queue.head(Some(class)).or(model.queue.head(None))?;
                // Nobody waits for who is late.
                (Some(rank).filter(|rank| !rank.late)?, Source::Waiting(close))
            }
            TurnKind::Late => {
                self.company = Company::new(own, others);
                self.drop_unmeetable(id, worker);
                let model = self.models.get(&id)?;
                (model.queue.first_late()?.rank, Source::Late(model.late_time_max()))
            }
            TurnKind::Apart => {
                let rank = self.models.get(&id)?.queue.part_head(None)?;
                (rank, Source::Part(rank))
            }
        };
        self.credit(id, worker)?;
        Some(Choice { rank, model: id, worker, source })
    }

    /// What is to be done about a model's queue on a worker that holds it.
    pub(super) fn next_for(&self, id: ModelId, worker: WorkerId) -> Next {
        let Some(model) = self.models.get(&id) else { return Next::default() };
        let budget = self.fleet.cap(worker, id).apply(model.budget(self.bids.budget(worker)));
        let Some(view) = self.view_under(id, worker, budget) else { return Next::default() };
        let (queue, decision) = (&model.queue, model.decide(&view, self.is_draining()));
        let (close, wait_until) = match decision {
            Some(Decision::Close(close)) => (Some(close), None),
            Some(Decision::WaitUntil(until)) => (None, Some(until)),
            None => (None, None),
        };
        let waiting = match close {
            Some(_) => queue.head(None),
            // Who is late runs in turns of its own, and waits neither for a fuller batch nor for a quicker worker.
            None if wait_until.is_some() && view.hold_until.is_none() => queue.first_late().map(|item| item.rank),
            None => None,
        };
        let part = queue.part_head(None).map(|rank| (rank, true));
        let waiting = waiting.map(|rank| (rank, false));
        let Some((rank, is_apart)) = part.into_iter().chain(waiting).min_by_key(|(rank, _)| *rank) else {
            return Next { want: None, wait_until };
        };
        let (on_time, classes) = match wait_until {
            Some(_) if !is_apart => Default::default(),
            _ => (queue.on_time().size(), queue.classes()),
        };
        let time_max = close.map_or(Some(Duration::MAX), |close| close.time_max).filter(|_| !is_apart);
        let time = time_max.map_or(Duration::ZERO, |most| model.costs.high(worker, on_time).min(most));
        let late = queue.late().size();
        let want = Want { class: rank.class, start: rank.due - time, time, on_time, classes, late, is_apart };
        Next { want: Some(want), wait_until }
    }

    /// From when on the first request of a model that can still be on time can be so no more on a worker, even alone.
    fn late_from(&self, id: ModelId, worker: WorkerId) -> Option<Timestamp> {
        let model = self.models.get(&id).filter(|model| model.on_late().is_some())?;
        let first = model.queue.first_on_time()?;
        let last = first.rank.due - model.costs.high(worker, first.cost.into());
        Some(last + Duration::from_nanos(1))
    }
}
