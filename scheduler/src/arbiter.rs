//! A worker's side of serving several schedulers: whose turn it is on the device.
//!
//! Schedulers say what waits in their queues ([`Want`]). When the device can take a batch the arbiter picks the most
//! urgent model and gives every scheduler that has something of it the same turn; each answers with a batch or a pass;
//! what came runs as one batch. That is what makes several schedulers as good as one: a batch costs its base once, however
//! many sent a part of it, where batches of each scheduler's own would pay it again for each.
//!
//! It is a plain state machine: it is told what happened, and polled for what to do. No clock, no I/O.
//!
//! # Who is next
//!
//! The order is that of [`Scheduler`](crate::Scheduler): who can still be on time before who is late, then by class, then
//! by the latest start; and the same turns for whom urgency passes over, so that neither a class, nor a model, nor what is
//! late is passed over for ever. Among those that are all late, or that all had to start before now, it is the scheduler
//! whose requests had the least of the device.
//!
//! # What failed before
//!
//! A part of a batch that failed runs with nothing beside it: its turn is given when the device has nothing in hand, and no
//! other before it has ended. So what it breaks is its own.
//!
//! # Who does not answer
//!
//! A turn waits for answers for [`Sharing::patience`], then goes with what came. A batch that comes after that is not
//! refused: its scheduler counts on it. It runs by itself before the next turn. Whoever leaves is waited for no longer.

mod choice;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use crate::cost::Size;
use crate::turns::Turns;
use crate::{ModelId, Slot, Timestamp, TurnKind, Want};

/// A scheduler that is attached to a worker, named by the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchedulerId(pub u32);

/// How a worker shares itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Batches it takes in at once: the one that runs and those behind it. At least 1.
    pub slots: u32,
    /// How long a turn waits for answers.
    pub patience: Duration,
    /// Of how many schedulers parts may run as one batch. At least 1, which fuses nothing.
    pub parts_max: u32,
}

/// What a worker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give a scheduler this turn.
    Give {
        /// Whom.
        scheduler: SchedulerId,
        /// The turn.
        slot: Slot,
        /// Of which model.
        model: ModelId,
        /// For what of it.
        kind: TurnKind,
        /// What it has of it.
        own: Size,
        /// What the other schedulers that are given the turn have of it.
        others: Size,
    },
    /// Run what these schedulers sent in this turn as one batch, then say [`Arbiter::ended`].
    Launch(Launch),
}

/// Parts that run as one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The turn they came in.
    pub slot: Slot,
    /// The model they are of.
    pub model: ModelId,
    /// Names the launch among those of this worker, in order.
    pub number: u64,
}

/// What one scheduler sent in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Who.
    pub scheduler: SchedulerId,
    /// How much.
    pub size: Size,
}

/// Decides whose turn it is on one worker.
#[derive(Debug)]
pub struct Arbiter {
    sharing: Sharing,
    members: BTreeMap<SchedulerId, Member>,
    /// Which classes and which models were passed over.
    turns: Turns,
    passed: choice::Passed,
    /// The turn that waits for answers.
    open: Option<Open>,
    /// Batches that came after their turn.
    stragglers: VecDeque<Straggler>,
    /// Batches that were launched and did not end, by number.
    launched: BTreeMap<u64, Vec<Part>>,
    /// Of them the one that nothing may run beside.
    apart: Option<u64>,
    launches: u64,
    /// The last turn given.
    last: u32,
    actions: VecDeque<Action>,
}

/// An attached scheduler.
#[derive(Debug, Default)]
struct Member {
    wants: BTreeMap<ModelId, Want>,
    /// Turns that closed without its answer, and what they were of.
    unanswered: BTreeMap<Slot, (ModelId, TurnKind)>,
    /// Device time that its requests had, never less than any other's when it came.
    served: Duration,
}

/// A turn that waits for answers.
#[derive(Debug)]
struct Open {
    slot: Slot,
    model: ModelId,
    kind: TurnKind,
    /// Who has not answered.
    asked: Vec<SchedulerId>,
    parts: Vec<Part>,
    expires: Timestamp,
    /// What was wanted of the model by those it was given to: it is wanted no longer until it is said anew, which may be
    /// after the turn is over.
    given: BTreeMap<SchedulerId, Want>,
}

/// A batch that came after its turn.
#[derive(Debug)]
struct Straggler {
    slot: Slot,
    model: ModelId,
    kind: TurnKind,
    part: Part,
}

impl Arbiter {
    /// Nobody is attached and nothing runs.
    pub fn new(sharing: Sharing) -> Self {
        Self {
            sharing,
            members: BTreeMap::new(),
            turns: Turns::default(),
            passed: choice::Passed::default(),
            open: None,
            stragglers: VecDeque::new(),
            launched: BTreeMap::new(),
            apart: None,
            launches: 0,
            last: 0,
            actions: VecDeque::new(),
        }
    }

    /// A scheduler attaches. One that was attached has lost its connection, and all that it wanted.
    pub fn join(&mut self, now: Timestamp, scheduler: SchedulerId) {
        self.leave(now, scheduler);
        let served = self.members.values().map(|member| member.served).min().unwrap_or_default();
        self.members.insert(scheduler, Member { served, ..Member::default() });
    }

    /// A scheduler is gone. What it sent and what did not begin is not run; what runs of it runs to its end.
    pub fn leave(&mut self, now: Timestamp, scheduler: SchedulerId) {
        self.members.remove(&scheduler);
        self.stragglers.retain(|straggler| straggler.part.scheduler != scheduler);
        if let Some(open) = &mut self.open {
            open.asked.retain(|asked| *asked != scheduler);
            open.parts.retain(|part| part.scheduler != scheduler);
            open.given.remove(&scheduler);
        }
        self.go_on(now);
    }

    /// What a scheduler wants of a model from now on.
    pub fn bid(&mut self, now: Timestamp, scheduler: SchedulerId, model: ModelId, want: Option<Want>) {
        // What is said before the answer to a turn was said before the turn was heard of.
        let is_asked = self.open.as_ref().is_some_and(|open| open.model == model && open.asked.contains(&scheduler));
        let Some(member) = self.members.get_mut(&scheduler) else { return };
        if is_asked || member.unanswered.values().any(|(asked, _)| *asked == model) {
            return;
        }
        match want {
            Some(want) => member.wants.insert(model, want),
            None => member.wants.remove(&model),
        };
        self.go_on(now);
    }

    /// A scheduler answers a turn with a batch of this size. False when it was given no such turn: then the batch is not
    /// to be taken.
    pub fn part(&mut self, now: Timestamp, scheduler: SchedulerId, slot: Slot, size: Size) -> bool {
        let part = Part { scheduler, size };
        if let Some(open) = self.answered(scheduler, slot) {
            open.parts.push(part);
        } else if let Some((model, kind)) = self.take_unanswered(scheduler, slot) {
            self.stragglers.push_back(Straggler { slot, model, kind, part });
        } else {
            return false;
        }
        self.go_on(now);
        true
    }

    /// A scheduler answers a turn with nothing.
    pub fn pass(&mut self, now: Timestamp, scheduler: SchedulerId, slot: Slot) {
        if let Some(open) = self.answered(scheduler, slot) {
            // What it has that is late was not asked for.
            let wanted = open.given.get_mut(&scheduler).filter(|_| open.kind != TurnKind::Late);
            wanted.into_iter().for_each(|want| (want.on_time, want.classes) = Default::default());
        } else {
            self.take_unanswered(scheduler, slot);
        }
        self.go_on(now);
    }

    /// A launched batch ended, well or badly, after so much device time.
    pub fn ended(&mut self, now: Timestamp, number: u64, compute: Duration) {
        let parts = self.launched.remove(&number).unwrap_or_default();
        self.apart.take_if(|apart| *apart == number);
        let weight = |size: &Size| u128::from(size.rows) + u128::from(size.tokens);
        let whole: u128 = parts.iter().map(|part| weight(&part.size)).sum();
        for part in &parts {
            let nanos = compute.as_nanos() * weight(&part.size) / whole.max(1);
            if let Some(member) = self.members.get_mut(&part.scheduler) {
                member.served += Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            }
        }
        self.go_on(now);
    }

    /// Time passed.
    pub fn tick(&mut self, now: Timestamp) {
        self.go_on(now);
    }

    /// How many batches it takes in at once from now on.
    pub fn set_slots(&mut self, now: Timestamp, slots: u32) {
        self.sharing.slots = slots;
        self.go_on(now);
    }

    /// What to do next. To be asked until it says `None` after everything it is told.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to come back with [`tick`](Self::tick) if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.open.as_ref().map(|open| open.expires)
    }

    /// The parts of a launched batch, in the order in which they came.
    pub fn parts(&self, number: u64) -> &[Part] {
        self.launched.get(&number).map_or(&[], Vec::as_slice)
    }

    /// The turn that waits for a scheduler's answer, after this one.
    fn answered(&mut self, scheduler: SchedulerId, slot: Slot) -> Option<&mut Open> {
        let open = self.open.as_mut().filter(|open| open.slot == slot)?;
        let at = open.asked.iter().position(|asked| *asked == scheduler)?;
        open.asked.remove(at);
        Some(open)
    }

    fn take_unanswered(&mut self, scheduler: SchedulerId, slot: Slot) -> Option<(ModelId, TurnKind)> {
        self.members.get_mut(&scheduler)?.unanswered.remove(&slot)
    }

    /// Brings everything to where it can go no further.
    fn go_on(&mut self, now: Timestamp) {
        if self.open.as_ref().is_some_and(|open| open.asked.is_empty() || open.expires <= now) {
            self.close();
        }
        while self.open.is_none() && self.has_room() {
            let is_next = |next: &mut Straggler| next.kind != TurnKind::Apart || self.launched.is_empty();
            match self.stragglers.pop_front_if(is_next) {
                Some(Straggler { slot, model, kind, part }) => self.launch(slot, model, kind, Vec::from([part])),
                None if self.stragglers.is_empty() && self.give(now) => {}
                None => return,
            }
        }
    }

    fn has_room(&self) -> bool {
        self.apart.is_none() && self.launched.len() < usize::try_from(self.sharing.slots.max(1)).unwrap_or(usize::MAX)
    }

    /// Nobody is waited for any longer.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        for scheduler in &open.asked {
            if let Some(member) = self.members.get_mut(scheduler) {
                member.unanswered.insert(open.slot, (open.model, open.kind));
            }
        }
        if !open.parts.is_empty() {
            self.count_turn(&open);
            self.launch(open.slot, open.model, open.kind, open.parts);
        }
    }

    fn launch(&mut self, slot: Slot, model: ModelId, kind: TurnKind, parts: Vec<Part>) {
        self.launches += 1;
        let number = self.launches;
        self.apart = self.apart.or((kind == TurnKind::Apart).then_some(number));
        self.launched.insert(number, parts);
        self.actions.push_back(Action::Launch(Launch { slot, model, number }));
    }

    /// Gives the next turn. False when nobody wants one, or it is for what may run beside nothing.
    fn give(&mut self, now: Timestamp) -> bool {
        let is_possible = |(.., kind): &choice::Lead| *kind != TurnKind::Apart || self.launched.is_empty();
        let Some((first, model, kind)) = self.choose(now).filter(is_possible) else { return false };
        let company = self.company(first, model, kind);
        let mut given = BTreeMap::new();
        self.last = self.last.wrapping_add(1);
        let slot = Slot(self.last);
        for (scheduler, own) in company.iter().copied() {
            let mut others = Size::default();
            for (_, size) in company.iter().filter(|(other, _)| *other != scheduler) {
                // Of what is late each gets the same part of the device, however much he has.
                others.add(if kind == TurnKind::Late && size.rows > own.rows { own } else { *size });
            }
            self.actions.push_back(Action::Give { scheduler, slot, model, kind, own, others });
            let want = self.members.get_mut(&scheduler).and_then(|member| member.wants.remove(&model));
            given.extend(want.map(|want| (scheduler, want)));
        }
        let asked = company.into_iter().map(|(scheduler, _)| scheduler).collect();
        let expires = now + self.sharing.patience;
        self.open = Some(Open { slot, model, kind, asked, parts: Vec::new(), expires, given });
        true
    }

    /// Who is given a turn that one of them leads, and what each has for it.
    fn company(&self, first: SchedulerId, model: ModelId, kind: TurnKind) -> Vec<(SchedulerId, Size)> {
        let own = self.offer(first, model, kind).unwrap_or_default();
        let mut given = Vec::from([(first, own)]);
        if kind != TurnKind::Apart {
            let others = self.members.keys().copied().filter(|scheduler| *scheduler != first);
            let offers = others.filter_map(|scheduler| Some((scheduler, self.offer(scheduler, model, kind)?)));
            let mut offers: Vec<_> = offers.collect();
            // Those with the most are worth the most where not all may come.
            offers.sort_by_key(|(scheduler, size)| (Reverse(size.rows), *scheduler));
            offers.truncate(usize::try_from(self.sharing.parts_max.max(1) - 1).unwrap_or(usize::MAX));
            given.extend(offers);
        }
        given
    }

    /// What a scheduler has for a turn; `None` when it has nothing.
    fn offer(&self, scheduler: SchedulerId, model: ModelId, kind: TurnKind) -> Option<Size> {
        let want = self.members.get(&scheduler)?.wants.get(&model)?;
        let size = match kind {
            TurnKind::OnTime(_) if !want.is_apart => want.on_time,
            TurnKind::Late if !want.is_apart => want.late,
            TurnKind::Apart if want.is_apart => return Some(Size::default()),
            TurnKind::OnTime(_) | TurnKind::Late | TurnKind::Apart => return None,
        };
        (size.rows > 0).then_some(size)
    }
}
