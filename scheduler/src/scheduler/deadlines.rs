//! Calls whose clients' deadlines cannot be kept are refused when they come: to try would only take time from others.
//!
//! Refused is what would be too late even if everything went as quickly as it ever does: nobody who could make it is sent
//! away. Whatever is not known counts as taking no time, and so does what is queued: those before it may be given up,
//! cancelled, or gone by then. A model's objective has no part in this: it is soft.

use core::time::Duration;

use super::Scheduler;
use crate::cost::{Costs, Size};
use crate::fleet::{Holding, Link};
use crate::model::Model;
use crate::rate::{bounded, spread};
use crate::{Group, Reject, Timestamp, WorkerId};

impl Scheduler {
    /// Refuses a call that the queue has room for when its client's deadline cannot be kept.
    pub(super) fn check_deadline(&mut self, group: &Group) -> Result<(), Reject> {
        let (Some(deadline), Some(model)) = (group.deadline, self.models.get(&group.model)) else { return Ok(()) };
        let refusal = self.keep(deadline, group, model);
        let now = self.now;
        let is_tried = |model: &mut Model| model.doubt.tries(now);
        match refusal {
            Err(_) if self.models.get_mut(&group.model).is_some_and(is_tried) => Ok(()),
            refusal => refusal,
        }
    }

    fn keep(&self, deadline: Timestamp, group: &Group, model: &Model) -> Result<(), Reject> {
        let costs = &model.costs;
        let is_loading = |link: &Link| link.holdings.get(&group.model) == Some(&Holding::Loading);
        let longest = group.requests.iter().map(|request| Size::from(request.cost));
        let Some(longest) = longest.max_by_key(|size| costs.typical(*size)).filter(|_| costs.is_known()) else {
            return Ok(());
        };
        let ends_if = |time: fn(&Costs, WorkerId, Size) -> Duration| {
            let holders = self.fleet.holders(group.model);
            holders.map(move |(id, link)| self.earliest(id, link, time) + time(costs, id, longest))
        };
        let ends = || ends_if(Costs::least);
        // The first worker nearly always has the time, even if all goes as usual.
        if ends_if(Costs::expected).next().is_some_and(|end| end <= deadline) || ends().any(|end| end <= deadline) {
            return Ok(());
        }
        // Whoever is still loading the model may be there in time.
        let (Some(end), false) = (ends().min(), self.fleet.connected().any(|(_, _, link)| is_loading(link))) else {
            return Ok(());
        };
        let alone = |time: &dyn Fn(WorkerId) -> Duration| self.fleet.holders(group.model).map(|(id, _)| time(id)).min();
        let left = deadline.since(self.now);
        if alone(&|id| costs.least(id, longest)).is_some_and(|least| least > left) {
            let needed = alone(&|id| costs.expected(id, longest)).unwrap_or_default();
            return Err(Reject::DeadlineTooShort { left, needed });
        }
        Err(Reject::DeadlineUnmeetable { retry_after: spread(bounded(end.since(deadline)), group.id) })
    }

    /// When a worker could be through with what it has, if each batch took such a time.
    fn earliest(&self, worker: WorkerId, link: &Link, time: fn(&Costs, WorkerId, Size) -> Duration) -> Timestamp {
        let mut free = self.now;
        for batch in link.outstanding.iter().filter_map(|id| self.inflight.get(*id)) {
            // What was withdrawn may be left out.
            let of = self.models.get(&batch.model).filter(|_| batch.withdrawn.is_empty());
            let time = of.map_or(Duration::ZERO, |model| time(&model.costs, worker, batch.size()));
            free = (batch.started.unwrap_or(free) + time).max(free);
        }
        free
    }
}
