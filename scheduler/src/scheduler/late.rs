//! Who cannot be on time any more, and what becomes of them: the model's policy says how many, the rest is done here.

use alloc::vec::Vec;
use core::time::Duration;

use super::Scheduler;
use super::places::Unwanted;
use crate::policy::View;
use crate::queue::Item;
use crate::requests::Place;
use crate::{Class, Failure, ModelId, OnLate, Output, RequestId, Timestamp, WorkerId};

impl Scheduler {
    /// Before a batch of a model is formed for a worker: gives up who would be late whatever is done.
    pub(super) fn give_up_late(&mut self, id: ModelId, worker: WorkerId) {
        let Some(on_late) = self.models.get(&id).and_then(|model| model.on_late()) else { return };
        let hopeless = self.hopeless(id, worker);
        let probe = hopeless.last().copied().filter(|_| self.is_blind(id) && !self.has_late(id));
        for late in hopeless {
            self.put_late(late, id, if probe == Some(late) { OnLate::Serve } else { on_late });
        }
        let Some(view) = self.view(id, worker) else { return };
        let victims = self.models.get(&id).map(|model| model.give_up(&view, &|| self.round(id, worker)));
        for late in victims.unwrap_or_default() {
            self.put_late(late, id, on_late);
        }
        self.drop_unmeetable(id, worker);
    }

    /// What the policy of a model is shown of its queue and of a worker with a credit.
    pub(super) fn view(&self, id: ModelId, worker: WorkerId) -> Option<View<'_>> {
        let model = self.models.get(&id)?;
        let (_, budget) = self.credit(id, worker)?;
        Some(View {
            now: self.now,
            queue: &model.queue,
            budget,
            worker,
            costs: &model.costs,
            shares: &model.shares,
            objective: model.config.objective,
            workers: self.fleet.ready(id),
            is_busy: model.is_busy,
        })
    }

    /// The heads of each class that would be late even alone on whichever worker is through with them first.
    fn hopeless(&self, id: ModelId, worker: WorkerId) -> Vec<RequestId> {
        let Some(model) = self.models.get(&id) else { return Vec::new() };
        let is_late_here = |item: &Item| self.now + model.costs.high(worker, item.cost.into()) > item.rank.due;
        let mut heads = Class::ALL.into_iter().filter_map(|class| model.queue.on_time_of(class).next());
        if !heads.any(is_late_here) {
            // Nearly always: then nobody has to be asked when he is free.
            return Vec::new();
        }
        let free = self.fleet.free_times(id, self.now);
        let is_hopeless = |item: &&Item| {
            let end = |(at, worker): &(Timestamp, WorkerId)| *at + model.costs.high(*worker, item.cost.into());
            free.iter().all(|free| end(free) > item.rank.due)
        };
        let of_class = |class| model.queue.on_time_of(class).take_while(is_hopeless).map(|item| item.rank.id);
        Class::ALL.into_iter().flat_map(of_class).collect()
    }

    /// Whether nothing of a model has run for so long that what is known of its costs may not hold any more. Who believes to
    /// be late whatever is done, and for that runs nothing, would never hear that workers are quick again: one request a
    /// second is tried all the same.
    fn is_blind(&self, id: ModelId) -> bool {
        const BLIND_AFTER: Duration = Duration::from_secs(1);
        self.models.get(&id).is_some_and(|model| model.served.idle(self.now) >= BLIND_AFTER)
    }

    fn has_late(&self, id: ModelId) -> bool {
        self.models.get(&id).is_some_and(|model| model.queue.late().requests > 0)
    }

    /// When the workers that the model can count on are free, the one that asks first: its share of them, if others have
    /// work as well.
    fn round(&self, id: ModelId, worker: WorkerId) -> Vec<(Timestamp, WorkerId)> {
        let mut free = self.fleet.free_times(id, self.now);
        free.retain(|(_, id)| *id != worker);
        free.insert(0, (self.now, worker));
        let active = self.models.values().filter(|model| model.queue.on_time().requests > 0).count();
        free.truncate((free.len() / active.max(1)).max(1));
        free
    }

    fn put_late(&mut self, request: RequestId, model: ModelId, on_late: OnLate) {
        if let Some(model) = self.models.get_mut(&model) {
            model.served.begin(self.now);
        }
        match on_late {
            OnLate::Serve if self.has_room_for_late(request, model) => {
                self.mark_late(request, model, true);
                self.outputs.push_back(Output::Late { request });
            }
            OnLate::Serve | OnLate::Shed => {
                let Some(model) = self.models.get(&model) else { return };
                let retry_after = model.served.retry_after(self.now, model.queue.on_time().requests);
                let mut unwanted = Unwanted::default();
                self.drop_request(request, &mut unwanted);
                self.outputs.push_back(Output::Fail { request, why: Failure::Shed { retry_after } });
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
    fn drop_unmeetable(&mut self, id: ModelId, worker: WorkerId) {
        loop {
            let Some(model) = self.models.get(&id) else { return };
            let Some(item) = model.queue.late_items().next() else { return };
            let time = model.costs.high(worker, item.cost.into());
            let request = item.rank.id;
            let deadline = self.requests.get(request).map_or(Timestamp::MAX, |live| live.deadline);
            if !model.costs.is_known() || self.is_blind(id) || self.now + time <= deadline {
                return;
            }
            debug_assert!(self.requests.get(request).is_some_and(|live| live.place == Place::Queued));
            self.put_late(request, id, OnLate::Shed);
        }
    }
}
