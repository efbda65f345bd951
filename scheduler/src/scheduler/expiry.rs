//! Time passes: deadlines, queue times, and the end of a drain. None of it needs a worker's help.

use alloc::vec::Vec;

use super::places::Unwanted;
use super::{Drain, Scheduler};
use crate::{Failure, Output, RequestId, Timestamp};

impl Scheduler {
    /// Fails every request whose time is up. A deadline that is now has passed.
    pub(super) fn expire(&mut self) {
        let mut unwanted = Unwanted::default();
        while let Some((at, id)) = self.requests.first_expiry()
            && at <= self.now
        {
            let has_deadline_passed = self.requests.get(id).is_some_and(|request| request.deadline <= self.now);
            let why = if has_deadline_passed { Failure::DeadlinePassed } else { Failure::QueueTimeout };
            self.give_up(id, why, &mut unwanted);
        }
        self.cancel_running(unwanted);
    }

    /// Begins a drain, or brings the end of one forward.
    pub(super) fn start_drain(&mut self, deadline: Timestamp) {
        match self.drain {
            Drain::No => self.drain = Drain::Until(deadline),
            Drain::Until(earlier) => self.drain = Drain::Until(deadline.min(earlier)),
            Drain::Done => {}
        }
        // No policy waits any longer.
        self.stirred.extend(self.models.keys().copied());
    }

    /// Ends the drain when nothing is left, or when its time is up.
    pub(super) fn continue_drain(&mut self) {
        let Drain::Until(deadline) = self.drain else { return };
        if deadline <= self.now {
            let mut unwanted = Unwanted::default();
            for id in self.requests.iter().map(|(id, _)| id).collect::<Vec<_>>() {
                self.give_up(id, Failure::Drained, &mut unwanted);
            }
            self.cancel_running(unwanted);
        }
        if self.requests.is_empty() {
            self.drain = Drain::Done;
            self.outputs.push_back(Output::Drained);
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain != Drain::No
    }

    fn give_up(&mut self, id: RequestId, why: Failure, unwanted: &mut Unwanted) {
        // It may have ended with another one of its call.
        let Some(group) = self.requests.get(id).map(|request| request.group) else { return };
        self.drop_request(id, unwanted);
        self.fail_call(id, group, why);
    }
}
