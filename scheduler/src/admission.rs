//! The limits that all models share: tenants, classes, bytes. A model's own limit is checked here too, in one order.
//!
//! Limits bind on arrival only. A request that was admitted and comes back from a lost worker is queued again even when
//! its queue has filled up meanwhile, so queues are bounded by their limit plus what was running.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::model::Model;
use crate::queue::Totals;
use crate::rate::{Rate, spread};
use crate::requests::Live;
use crate::{Class, Group, Limits, QueueLimit, Reject, TenantId, Timestamp};

/// What is queued under one limit, and how fast it was served lately.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gauge {
    pub(crate) used: u64,
    rate: Rate,
}

impl Gauge {
    /// Refuses `more` on top of what is used when it passes the limit.
    fn check(&self, now: Timestamp, more: u64, max: u64) -> Result<(), Duration> {
        match self.used.saturating_add(more).saturating_sub(max) {
            0 => Ok(()),
            over => Err(self.rate.retry_after(now, over)),
        }
    }
}

/// What is queued, by everything that is limited across models.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: Limits,
    /// Only tenants with something queued.
    tenants: BTreeMap<TenantId, Gauge>,
    classes: [Gauge; Class::ALL.len()],
    bytes: Gauge,
}

impl Admission {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, tenants: BTreeMap::new(), classes: Default::default(), bytes: Gauge::default() }
    }

    /// A request entered a queue.
    pub(crate) fn enter(&mut self, request: &Live) {
        self.tenants.entry(request.tenant).or_default().used += 1;
        self.classes[request.class as usize].used += 1;
        self.bytes.used += request.cost.bytes;
    }

    /// A request left a queue without having been served.
    pub(crate) fn leave(&mut self, request: &Live) {
        self.classes[request.class as usize].used -= 1;
        self.bytes.used -= request.cost.bytes;
        if let Some(tenant) = self.tenants.get_mut(&request.tenant) {
            tenant.used -= 1;
            if tenant.used == 0 {
                self.tenants.remove(&request.tenant);
            }
        }
    }

    /// A request left a queue for a worker.
    pub(crate) fn serve(&mut self, now: Timestamp, request: &Live) {
        if let Some(tenant) = self.tenants.get_mut(&request.tenant) {
            tenant.rate.add(now, 1);
        }
        self.classes[request.class as usize].rate.add(now, 1);
        self.bytes.rate.add(now, request.cost.bytes);
        self.leave(request);
    }

    /// Whether a group may enter the queue of its model, whole.
    pub(crate) fn check(&self, now: Timestamp, group: &Group, model: &Model) -> Result<(), Reject> {
        if group.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Reject::DeadlinePassed);
        }
        let (rows_max, tokens_max) = (model.config.batch_rows_max.get(), model.config.batch_tokens_max.get());
        if group.requests.iter().any(|request| request.cost.rows > rows_max || request.cost.tokens > tokens_max) {
            return Err(Reject::RequestTooLarge);
        }
        let mut more = Totals::default();
        for request in &group.requests {
            more.add(request.cost);
        }
        let limits = self.limits_of(group, model, more);
        if limits.iter().any(|(_, _, more, max)| more > max) {
            return Err(Reject::GroupTooLarge);
        }
        for (limit, gauge, more, max) in limits {
            let full = |after| Reject::QueueFull { limit, retry_after: spread(after, group.id) };
            gauge.check(now, more, max).map_err(full)?;
        }
        Ok(())
    }

    /// Whether half of what any limit allows is queued. In a flood the other half stays for who can still be on time.
    pub(crate) fn is_half_full(&self, request: &Live) -> bool {
        let limits = &self.limits;
        let of_tenant = self.tenants.get(&request.tenant).map_or(0, |tenant| tenant.used);
        [
            (of_tenant, u64::from(limits.tenant_requests_max)),
            (self.classes[request.class as usize].used, u64::from(limits.class_requests_max)),
            (self.bytes.used, limits.queue_bytes_max),
        ]
        .iter()
        .any(|(used, max)| *used >= max.div_ceil(2))
    }

    /// Requests queued, by class.
    pub(crate) fn queued_by_class(&self) -> [u64; Class::ALL.len()] {
        self.classes.map(|class| class.used)
    }

    /// Bytes of payload queued.
    pub(crate) fn bytes_queued(&self) -> u64 {
        self.bytes.used
    }

    pub(crate) fn attempts_max(&self) -> u16 {
        self.limits.attempts_max.get()
    }

    /// Requests queued, by tenant, for the invariants.
    pub(crate) fn queued_by_tenant(&self) -> BTreeMap<TenantId, u64> {
        self.tenants.iter().map(|(tenant, gauge)| (*tenant, gauge.used)).collect()
    }

    /// Every limit a group meets, in the order in which they are named to the caller.
    fn limits_of(&self, group: &Group, model: &Model, more: Totals) -> [(QueueLimit, Gauge, u64, u64); 4] {
        let of_model = Gauge { used: model.queue.totals().requests, rate: model.served };
        let of_tenant = self.tenants.get(&group.tenant).copied().unwrap_or_default();
        let of_class = self.classes[group.class as usize];
        let limits = &self.limits;
        [
            (QueueLimit::Model, of_model, more.requests, u64::from(model.config.queue_requests_max.get())),
            (QueueLimit::Tenant, of_tenant, more.requests, u64::from(limits.tenant_requests_max)),
            (QueueLimit::Class, of_class, more.requests, u64::from(limits.class_requests_max)),
            (QueueLimit::Bytes, self.bytes, more.bytes, limits.queue_bytes_max),
        ]
    }
}
