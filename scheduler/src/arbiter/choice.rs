//! Whose turn it is: the most urgent of what all schedulers want, unless somebody was passed over for too long.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use super::{Arbiter, Open, SchedulerId};
use crate::{Class, ModelId, Size, Timestamp, TurnKind, Want};

/// Who leads a turn, of which model, for what of it.
pub(super) type Lead = (SchedulerId, ModelId, TurnKind);

/// What wants are compared by: late or not, class, latest start, what its scheduler had, then anything that is the same
/// on every machine.
type Urgency = (bool, Class, Timestamp, Duration, Timestamp, ModelId, SchedulerId);

/// One scheduler's want of one model.
#[derive(Clone, Copy)]
struct Entry<'a> {
    scheduler: SchedulerId,
    model: ModelId,
    want: &'a Want,
    urgency: Urgency,
}

/// For each model that is wanted, how many turns in a row may pass over one of the class that they were for. Latest starts
/// alone would let a backlog that is long overdue hold up models that are still on time.
const MODEL_PATIENCE: u32 = 2;

/// How many turns passed over each model that was wanted.
#[derive(Debug, Default)]
pub(super) struct Passed(BTreeMap<(Class, ModelId), u32>);

impl Passed {
    fn count(&mut self, model: ModelId, class: Class, waiting: &BTreeSet<(Class, ModelId)>) {
        self.0.retain(|of, _| waiting.contains(of) && *of != (class, model));
        for of in waiting.iter().filter(|(of, other)| *of == class && *other != model) {
            let passed = self.0.entry(*of).or_default();
            *passed = passed.saturating_add(1);
        }
    }

    /// The models whose turn it is in a class, where so many are wanted.
    fn owed(&self, class: Class, wanted: usize) -> impl Iterator<Item = ModelId> {
        let patience = MODEL_PATIENCE.saturating_mul(u32::try_from(wanted).unwrap_or(u32::MAX));
        let of_class = self.0.range((class, ModelId(0))..=(class, ModelId(u32::MAX)));
        of_class.filter(move |(_, passed)| **passed >= patience).map(|((_, model), _)| *model)
    }
}

impl Entry<'_> {
    fn kind(&self) -> TurnKind {
        match self.want {
            Want { is_apart: true, .. } => TurnKind::Apart,
            Want { on_time: Size { rows: 0, .. }, .. } => TurnKind::Late,
            Want { class, .. } => TurnKind::OnTime(*class),
        }
    }

    fn lead(&self, kind: TurnKind) -> Lead {
        (self.scheduler, self.model, kind)
    }
}

impl Arbiter {
    /// Who leads the next turn; `None` when nobody wants one.
    pub(super) fn choose(&self, now: Timestamp) -> Option<Lead> {
        let times = self.times();
        let entries = || self.entries(now, &times);
        let most_urgent = |is_meant: &dyn Fn(&Entry<'_>) -> bool| {
            entries().filter(|entry| is_meant(entry)).min_by_key(|entry| entry.urgency)
        };
        let best = most_urgent(&|_| true)?;
        let class = best.want.class;
        if self.turns.is_late_owed()
            && let Some(late) = most_urgent(&|entry| entry.want.late.rows > 0 && !entry.want.is_apart)
        {
            return Some(late.lead(TurnKind::Late));
        }
        for owed in self.turns.classes_owed(class) {
            let leads = |entry: &Entry<'_>| entry.want.classes[owed as usize] && entry.want.on_time.rows > 0;
            if let Some(entry) = most_urgent(&|entry| leads(entry) && !entry.want.is_apart) {
                return Some(entry.lead(TurnKind::OnTime(owed)));
            }
        }
        let held = entries().map(|entry| entry.model).collect::<BTreeSet<_>>().len();
        for owed in self.passed.owed(class, held) {
            if let Some(entry) = most_urgent(&|entry| entry.model == owed && entry.want.class == class) {
                return Some(entry.lead(entry.kind()));
            }
        }
        Some(best.lead(best.kind()))
    }

    /// Keeps count of whom a turn passed over. Whatever waited when it was given and did not go along waits still, said or
    /// not: what is late is in no batch with others, and of what can be on time a part of the size that was wanted has all.
    /// Who went along with the turn of another class was served; what he has said since came since.
    pub(super) fn count_turn(&mut self, turn: &Open) {
        let late_waits = self.has_late() || turn.given.values().any(|want| want.late.rows > 0);
        self.turns.count_late(late_waits, turn.kind == TurnKind::Late);
        let TurnKind::OnTime(class) = turn.kind else { return };
        let sent =
            |of: &SchedulerId| turn.parts.iter().find(|part| part.scheduler == *of).map_or(0, |part| part.size.rows);
        let (rode, left): (Vec<_>, Vec<_>) =
            turn.given.iter().partition(|(scheduler, want)| sent(scheduler) >= want.on_time.rows);
        let mut waiting: BTreeSet<_> = left.iter().flat_map(|(_, want)| classes_of(turn.model, want)).collect();
        for (scheduler, member) in &self.members {
            let has_ridden = rode.iter().any(|(of, _)| *of == scheduler);
            let said = member.wants.iter().filter(|(model, _)| !has_ridden || **model != turn.model);
            waiting.extend(said.flat_map(|(model, want)| classes_of(*model, want)));
        }
        let waits = Class::ALL.map(|class| waiting.iter().any(|(of, _)| *of == class));
        let rode = Class::ALL.map(|class| rode.iter().any(|(_, want)| want.classes[class as usize]));
        let taken = Class::ALL.map(|of| of == class || rode[of as usize] && !waits[of as usize]);
        self.turns.count(taken, waits);
        self.passed.count(turn.model, class, &waiting);
    }

    /// Whether late requests wait now.
    fn has_late(&self) -> bool {
        self.members.values().flat_map(|member| member.wants.values()).any(|want| want.late.rows > 0)
    }

    /// What everybody has of each model takes so long, each by itself.
    fn times(&self) -> BTreeMap<ModelId, Duration> {
        let mut times = BTreeMap::<ModelId, Duration>::new();
        for (model, want) in self.members.values().flat_map(|member| &member.wants) {
            *times.entry(*model).or_default() += want.time;
        }
        times
    }

    fn entries(&self, now: Timestamp, times: &BTreeMap<ModelId, Duration>) -> impl Iterator<Item = Entry<'_>> {
        let of = move |scheduler: SchedulerId, model: ModelId, want, served| {
            let time = times.get(&model).copied().unwrap_or_default();
            let urgency = urgency(now, (scheduler, model), want, served, time);
            Entry { scheduler, model, want, urgency }
        };
        self.members.iter().flat_map(move |(scheduler, member)| {
            member.wants.iter().map(move |(model, want)| of(*scheduler, *model, want, member.served))
        })
    }
}

/// The classes that have a request in a want.
fn classes_of(model: ModelId, want: &Want) -> impl Iterator<Item = (Class, ModelId)> {
    let classes = want.classes;
    Class::ALL.into_iter().filter(move |class| classes[*class as usize]).map(move |class| (class, model))
}

/// How urgent a want is, when what all schedulers have of its model takes so long.
fn urgency(
    now: Timestamp,
    (scheduler, model): (SchedulerId, ModelId),
    want: &Want,
    served: Duration,
    time: Duration,
) -> Urgency {
    if !want.is_apart && want.on_time.rows == 0 {
        return (true, want.class, Timestamp::ZERO, served, want.start, model, scheduler);
    }
    // Its first request is in one batch with what the others have. What it shares with them is counted more than once:
    // fuller batches go a little earlier for it, which was found to keep more on time where there are more models than
    // workers can keep up with.
    let start = if want.is_apart { want.start } else { want.start + want.time - time };
    // All that should have started before now is as urgent as each other.
    (false, want.class, start.max(now), Duration::ZERO, start, model, scheduler)
}
