//! A batch while it is being filled, and the arithmetic of its budget.

use alloc::vec::Vec;

use crate::queue::Item;
use crate::turns::ByClass;
use crate::{Budget, CloseReason, RequestId};

/// A batch under a budget. Holds at least one request once anything was offered, because a request that no credit's
/// budget covers must run alone rather than wait for ever; the model's own limits were checked on admission.
#[derive(Debug)]
pub(crate) struct Draft {
    budget: Budget,
    /// In batch order.
    pub(crate) requests: Vec<RequestId>,
    pub(crate) rows: u32,
    pub(crate) tokens: u32,
    pub(crate) bytes: u64,
    /// Which classes have a request in it.
    pub(crate) classes: ByClass<bool>,
}

impl Draft {
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, requests: Vec::new(), rows: 0, tokens: 0, bytes: 0, classes: ByClass::default() }
    }

    /// Takes the request if it fits the rest of the budget and of `rows_max`, or says what it does not fit.
    pub(crate) fn offer(&mut self, item: Item, rows_max: u32) -> Result<(), CloseReason> {
        let rows = self.rows.saturating_add(item.cost.rows);
        let tokens = self.tokens.saturating_add(item.cost.tokens);
        let bytes = self.bytes.saturating_add(item.cost.bytes);
        if !self.requests.is_empty() {
            if rows > self.budget.rows.min(rows_max) {
                return Err(CloseReason::Rows);
            }
            if tokens > self.budget.tokens {
                return Err(CloseReason::Tokens);
            }
            if bytes > self.budget.bytes {
                return Err(CloseReason::Bytes);
            }
        }
        (self.rows, self.tokens, self.bytes) = (rows, tokens, bytes);
        self.classes[item.rank.class as usize] = true;
        self.requests.push(item.rank.id);
        Ok(())
    }
}
