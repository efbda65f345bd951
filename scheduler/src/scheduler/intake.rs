//! Calls come in and go away.

use super::places::Unwanted;
use super::{Drain, Scheduler};
use crate::requests::{Live, Place};
use crate::{Group, GroupId, Output, Reject, Timestamp};

impl Scheduler {
    /// Admits a call whole or refuses it whole.
    pub(super) fn submit(&mut self, mut group: Group) {
        assert!(!self.requests.has_group(group.id), "group id {} is in use", group.id);
        for request in &mut group.requests {
            // Every request counts as a row: one that cost nothing would fit any batch without end.
            request.cost.rows = request.cost.rows.max(1);
        }
        match self.admit(&group).and_then(|live| self.check_deadline(&group).map(|()| live)) {
            Ok(live) => {
                for request in &group.requests {
                    self.enter(request.id, Live { cost: request.cost, ..live });
                }
            }
            Err(why) => self.outputs.push_back(Output::Reject { group: group.id, why }),
        }
    }

    /// Ends whatever is left of a call, without an outcome: there is nobody to tell.
    pub(super) fn cancel(&mut self, group: GroupId) {
        let mut unwanted = Unwanted::default();
        for id in self.requests.of_group(group) {
            self.drop_request(id, &mut unwanted);
        }
        self.cancel_running(unwanted);
    }

    /// What all requests of the group have in common, once it is admitted.
    fn admit(&self, group: &Group) -> Result<Live, Reject> {
        if self.drain != Drain::No {
            return Err(Reject::Draining);
        }
        let model = self.models.get(&group.model).ok_or(Reject::UnknownModel)?;
        self.admission.check(self.now, group, model)?;
        let deadline = group.deadline.unwrap_or(Timestamp::MAX);
        Ok(Live {
            group: group.id,
            model: group.model,
            tenant: group.tenant,
            class: group.class,
            cost: Default::default(),
            arrived: self.now,
            deadline,
            due: deadline.min(self.now + model.config.objective),
            late: false,
            attempt: 0,
            losses: 0,
            broke: None,
            hedged: false,
            place: Place::Between,
            since: self.now,
            expires: Timestamp::MAX,
        })
    }
}
