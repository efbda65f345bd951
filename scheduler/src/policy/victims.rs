//! Who goes first when some must go: at each step the tenant that got and asks for the most gives up, of its least urgent
//! class, the one that has the least time left.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::time::Duration;

use super::View;
use crate::cost::Size;
use crate::queue::Item;
use crate::{Class, TenantId};

/// All requests that could be on time, in the order in which they would go. It looks at no more than it has to.
pub(super) struct Victims<'a> {
    view: &'a View<'a>,
    /// Those not seen yet, the least urgent class first.
    unseen: Box<dyn Iterator<Item = &'a Item> + 'a>,
    /// Of each tenant those that were seen on the way to another's.
    seen: BTreeMap<TenantId, VecDeque<&'a Item>>,
    /// What each got and asks for.
    most: BTreeSet<(Duration, TenantId)>,
}

impl<'a> Victims<'a> {
    pub(super) fn new(view: &'a View<'a>) -> Self {
        let queue = view.queue;
        let unseen = Class::ALL.into_iter().rev().flat_map(|class| queue.on_time_of(class));
        let base = view.costs.typical(Size::default());
        let most = queue.tenants().map(|(tenant, asked)| {
            let got = view.shares.of(view.now, tenant);
            // As much as if each ran by itself.
            let bases = u32::try_from(asked.requests - 1).map_or(Duration::MAX, |others| base.saturating_mul(others));
            (got.saturating_add(view.costs.typical(asked.size())).saturating_add(bases), tenant)
        });
        Self { view, unseen: Box::new(unseen), seen: BTreeMap::new(), most: most.collect() }
    }

    fn first_of(&mut self, tenant: TenantId) -> Option<&'a Item> {
        if let Some(item) = self.seen.get_mut(&tenant).and_then(VecDeque::pop_front) {
            return Some(item);
        }
        loop {
            let item = self.unseen.next()?;
            if item.tenant == tenant {
                return Some(item);
            }
            self.seen.entry(item.tenant).or_default().push_back(item);
        }
    }
}

impl<'a> Iterator for Victims<'a> {
    type Item = &'a Item;

    fn next(&mut self) -> Option<&'a Item> {
        loop {
            let (sum, tenant) = self.most.pop_last()?;
            if let Some(item) = self.first_of(tenant) {
                let time = self.view.costs.typical(item.cost.into());
                self.most.insert((sum.saturating_sub(time), tenant));
                return Some(item);
            }
        }
    }
}
