//! How much of the workers' time each tenant got of one model lately: who has had more than others goes first when some
//! must go.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::demand::Demand;
use crate::{TenantId, Timestamp};

/// Between two looks for tenants that have got nothing for long.
const SWEEP_EVERY: Duration = Duration::from_secs(2);

/// What tenants got.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    got: BTreeMap<TenantId, Demand>,
    swept: Timestamp,
}

impl Shares {
    /// Nobody got anything.
    #[cfg(test)]
    pub(crate) const NONE: Self = Self { got: BTreeMap::new(), swept: Timestamp::ZERO };

    /// A tenant got so much.
    pub(crate) fn add(&mut self, now: Timestamp, tenant: TenantId, time: Duration) {
        self.got.entry(tenant).or_default().add(now, time);
        if now.since(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.got.retain(|_, got| !got.per_second(now).is_zero());
        }
    }

    /// What a tenant got in about the last second.
    pub(crate) fn of(&self, now: Timestamp, tenant: TenantId) -> Duration {
        self.got.get(&tenant).map_or(Duration::ZERO, |got| got.per_second(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_tenant_and_forgets_who_is_gone() {
        let (one, other) = (TenantId(1), TenantId(2));
        let mut shares = Shares::default();
        for millis in 0..10_000 {
            let tenant = if millis < 1_000 { one } else { other };
            shares.add(Timestamp::from_millis(millis), tenant, Duration::from_micros(500));
        }
        let now = Timestamp::from_millis(9_999);
        assert_eq!(shares.of(now, one), Duration::ZERO);
        assert!(shares.of(now, other) > Duration::from_millis(450));
        assert_eq!(shares.got.len(), 1);
    }
}
