//! Who cannot be on time any more, and what becomes of them: the model's policy says how many, the rest is done here.

use alloc::vec::Vec;
use core::time::Duration;

use super::Scheduler;
use super::places::Unwanted;
use crate::cost::Size;
use crate::fleet::Link;
use crate::policy::View;
use crate::queue::Item;
use crate::rate::spread;
use crate::requests::Place;
use crate::{Budget, Class, Failure, ModelId, OnLate, Output, RequestId, Timestamp, WorkerId};

/// Time without a batch after which a worker is worth a try, at most.
const TRY_EVERY_MAX: Duration = Duration::from_secs(1);
/// Of each second of a worker's time, so much must be asked for before it is too good for who may be late all the same.
const AMPLE_BELOW: Duration = Duration::from_millis(800);

impl Scheduler {
    /// Before a batch of a model is formed for a worker: gives up who would be late whatever is done.
    pub(super) fn give_up_late(&mut self, id: ModelId, worker: WorkerId) {
        if self.models.get(&id).is_none_or(|model| model.on_late().is_none()) {
            self.let_others_first(id, worker);
            return;
        }
        self.give_up_hopeless(id, worker);
        let Some(on_late) = self.models.get(&id).and_then(|model| model.on_late()) else { return };
        let view = self.view(id, worker);
        let give_up = |view| self.models.get(&id).map(|model| model.give_up(&view, &|| self.round(id, worker)));
        let victims = view.and_then(give_up).unwrap_or_default();
        self.put_all_late(&victims, id, on_late);
        self.drop_unmeetable(id, worker);
        if victims.is_empty() {
            self.hurry(id);
        } else {
            self.let_wait(id, worker);
        }
        self.stirred.insert(id);
    }

    /// What is left of a model that had to give requests up has no more than just the time it needs: it goes when no other
    /// must start before the next worker is free, and of several such the one that got least of the workers' time.
    fn let_wait(&mut self, id: ModelId, worker: WorkerId) {
        let Some(pool) = self.fleet.link(worker).and_then(Link::pool) else { return };
        let next = self.fleet.pools.next_free(pool, self.now);
        if let Some(model) = self.models.get_mut(&id) {
            model.pressed_until = next;
            model.got = model.got.max(self.fair);
        }
    }

    fn hurry(&mut self, id: ModelId) {
        if let Some(model) = self.models.get_mut(&id) {
            model.pressed_until = Timestamp::ZERO;
        }
    }

    /// The same of a model whose policy gives nobody up, and whose first request is late already.
    fn let_others_first(&mut self, id: ModelId, worker: WorkerId) {
        let heads = self.models.get(&id).map(|model| model.listed).unwrap_or_default();
        if heads.iter().flatten().any(|(start, ..)| *start < self.now) {
            self.let_wait(id, worker);
            self.stirred.insert(id);
        }
    }

    /// Gives up who would be late even alone.
    pub(super) fn give_up_hopeless(&mut self, id: ModelId, worker: WorkerId) {
        let Some(on_late) = self.models.get(&id).and_then(|model| model.on_late()) else { return };
        let hopeless = self.hopeless(id, worker);
        self.put_all_late(&hopeless, id, on_late);
    }

    fn put_all_late(&mut self, requests: &[RequestId], id: ModelId, on_late: OnLate) {
        let Some((last, others)) = requests.split_last() else { return };
        for request in others {
            self.put_late(*request, id, on_late);
        }
        let due = self.requests.get(*last).map(|live| live.item(*last).rank.due);
        let is_tried = !self.has_late(id) && due.is_some_and(|due| self.is_worth_a_try(id, *last, due));
        self.put_late(*last, id, if is_tried { OnLate::Serve } else { on_late });
    }

    /// What the policy of a model is shown of its queue and of a worker with a credit.
    pub(super) fn view(&self, id: ModelId, worker: WorkerId) -> Option<View<'_>> {
        let (_, budget) = self.credit(id, worker)?;
        self.view_under(id, worker, budget)
    }

    /// The same of a worker that would take a batch of so much.
    pub(super) fn view_under(&self, id: ModelId, worker: WorkerId, budget: Budget) -> Option<View<'_>> {
        let model = self.models.get(&id)?;
        Some(View {
            now: self.now,
            queue: &model.queue,
            budget,
            worker,
            costs: &model.costs,
            company: self.company,
            is_sharing: self.is_sharing,
            shares: &model.shares,
            objective: model.config.objective,
            workers: self.fleet.ready(id),
            idle: self.fleet.pools.idle(id),
            hold_until: self.hold_until(id, worker),
            is_busy: model.is_busy,
        })
    }

    /// The heads of each class that would be late even alone on whichever worker is through with them first.
    fn hopeless(&self, id: ModelId, worker: WorkerId) -> Vec<RequestId> {
        let Some(model) = self.models.get(&id) else { return Vec::new() };
        // Whose time has passed is late whatever a batch costs.
        let takes = |worker, item: &Item| {
            if model.costs.is_proven() { model.costs.high(worker, item.cost.into()) } else { Duration::ZERO }
        };
        let is_late_here = |item: &Item| self.now + takes(worker, item) > item.rank.due;
        let mut heads = Class::ALL.into_iter().filter_map(|class| model.queue.on_time_of(class).next());
        if !heads.any(is_late_here) {
            // Nearly always: then nobody has to be asked when he is free.
            return Vec::new();
        }
        let free = self.fleet.pools.free_times(id, self.now, usize::MAX);
        let is_hopeless = |item: &&Item| {
            let end = |(at, worker): &(Timestamp, WorkerId)| *at + takes(*worker, item);
            free.iter().all(|free| end(free) > item.rank.due)
        };
        let of_class = |class| model.queue.on_time_of(class).take_while(is_hopeless).map(|item| item.rank.id);
        Class::ALL.into_iter().flat_map(of_class).collect()
    }

    /// Whether to try a request that is given up on an idle worker all the same, because one
    ///
    /// - would probably be in time, although that cannot be counted on, and the workers' time is not scarce;
    /// - is thought to be too slow for it, be it compared with others or whenever such a one comes, and has had nothing to do
    ///   for so long that this may not hold any more. It is given nothing for that, and would never be seen to be quick
    ///   again: it gets one for a third of its time or once a second.
    fn is_worth_a_try(&self, id: ModelId, request: RequestId, by: Timestamp) -> bool {
        let (Some(model), Some(live)) = (self.models.get(&id), self.requests.get(request)) else { return false };
        let (costs, size, item) = (&model.costs, Size::from(live.cost), live.item(request));
        let allowed = item.rank.due.since(item.arrived);
        let is_scarce = self.demand.per_second(self.now) >= AMPLE_BELOW * self.fleet.lives().max(1);
        let is_worth = |worker: WorkerId| {
            let (time, expected) = (costs.high(worker, size), costs.expected(worker, size));
            let rest = (expected * 2).min(TRY_EVERY_MAX);
            let is_rested = self.fleet.link(worker).is_some_and(|link| link.free_at + rest <= self.now);
            let is_slower = self.now + time > by && self.now + costs.typical(size) <= by;
            let is_likely = !is_scarce && self.now + expected <= by;
            is_likely || is_rested && (is_slower || time > allowed)
        };
        let mut free = self.fleet.pools.free(id).flatten();
        free.any(|(load, worker)| load.batches == 0 && is_worth(worker))
    }

    fn has_late(&self, id: ModelId) -> bool {
        self.models.get(&id).is_some_and(|model| model.queue.late().requests > 0)
    }

    /// When the workers that the model can count on are free, the one that asks first: its share of them, if others have
    /// work as well.
    fn round(&self, id: ModelId, worker: WorkerId) -> Vec<(Timestamp, WorkerId)> {
        let share = (self.fleet.ready(id) as usize / self.active.max(1)).max(1);
        let mut free = self.fleet.pools.free_times(id, self.now, share + 1);
        free.retain(|(_, id)| *id != worker);
        free.insert(0, (self.now, worker));
        free.truncate(share);
        free
    }

    fn put_late(&mut self, request: RequestId, model: ModelId, on_late: OnLate) {
        // It may have ended with another one of its call.
        let Some(group) = self.requests.get(request).map(|live| live.group) else { return };
        match on_late {
            OnLate::Serve if self.has_room_for_late(request, model) => {
                self.mark_late(request, model, true);
                self.outputs.push_back(Output::Late { request });
            }
            OnLate::Serve | OnLate::Shed => {
                let Some(model) = self.models.get_mut(&model) else { return };
                model.refused.add(self.now);
                // As if those that are refused, and are going to come back, stood in the queue.
                let before = model.queue.on_time().requests + model.refused.lately(self.now);
                let retry_after = model.served.retry_after(self.now, before);
                let mut unwanted = Unwanted::default();
                self.drop_request(request, &mut unwanted);
                self.fail_call(request, group, Failure::Shed { retry_after: spread(retry_after, group) });
            }
        }
    }

    /// A policy that knows no lateness has taken a model over: nobody is late any more.
    pub(super) fn forgive_late(&mut self, id: ModelId) {
        let Some(model) = self.models.get(&id).filter(|model| model.on_late().is_none()) else { return };
        for late in model.queue.late_items().map(|item| item.rank.id).collect::<Vec<_>>() {
            self.mark_late(late, id, false);
        }
    }

    /// Moves a waiting request behind all that can be on time, or back among them.
    fn mark_late(&mut self, request: RequestId, model: ModelId, late: bool) {
        let (Some(live), Some(model)) = (self.requests.get(request), self.models.get_mut(&model)) else { return };
        let mut item = live.item(request);
        model.queue.remove(item.rank);
        item.rank.late = late;
        model.queue.push(item);
        self.requests.mark_late(request, late);
    }

    /// Whether another late request may wait behind those that can be on time: while less than half of its model's queue is
    /// late, and less than half of what the other limits allow is queued.
    fn has_room_for_late(&self, request: RequestId, model: ModelId) -> bool {
        let has_room = self.models.get(&model).is_some_and(|model| model.has_room_for_late());
        has_room && self.requests.get(request).is_some_and(|request| !self.admission.is_half_full(request))
    }

    /// Fails those that are late and could not end before their client's deadline either: what is run of them is wasted.
    pub(super) fn drop_unmeetable(&mut self, id: ModelId, worker: WorkerId) {
        loop {
            let Some(model) = self.models.get(&id) else { return };
            let Some(item) = model.queue.first_late() else { return };
            let request = item.rank.id;
            let ends = |at: Timestamp, worker| at + model.costs.high(worker, item.cost.into());
            if !model.costs.is_proven()
                || self.is_worth_a_try(id, request, item.deadline)
                || ends(self.now, worker) <= item.deadline
            {
                return;
            }
            let free = self.fleet.pools.free_times(id, self.now, usize::MAX);
            if free.into_iter().any(|(at, worker)| ends(at, worker) <= item.deadline) {
                return;
            }
            debug_assert!(self.requests.get(request).is_some_and(|live| live.place == Place::Queued));
            self.put_late(request, id, OnLate::Shed);
        }
    }
}
