//! Tenants with open calls, by name. A name is forgotten with its last call, so that made-up names cost nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_scheduler::TenantId;

/// Tenants counted apart at once; those beyond share one account.
const TENANTS_MAX: usize = 65_536;
/// The account of those beyond.
const CROWD: TenantId = TenantId(u32::MAX);

/// Every tenant with an open call.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    open: BTreeMap<Arc<str>, Tenant>,
    next: u32,
}

#[derive(Debug)]
struct Tenant {
    id: TenantId,
    calls: u32,
}

impl Tenants {
    /// A call of this tenant came.
    pub(super) fn enter(&mut self, name: &Arc<str>) -> TenantId {
        if let Some(tenant) = self.open.get_mut(name) {
            tenant.calls += 1;
            return tenant.id;
        }
        if self.open.len() >= TENANTS_MAX {
            return CROWD;
        }
        let id = TenantId(self.next);
        // Ids come around after four billion tenants, and never reach the crowd's.
        self.next = (self.next + 1) % CROWD.0;
        self.open.insert(name.clone(), Tenant { id, calls: 1 });
        id
    }

    /// A call of this tenant ended.
    pub(super) fn leave(&mut self, name: &Arc<str>) {
        if let Some(tenant) = self.open.get_mut(name) {
            tenant.calls -= 1;
            if tenant.calls == 0 {
                self.open.remove(name);
            }
        }
    }
}
