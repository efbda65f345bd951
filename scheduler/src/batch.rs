//! A batch while it is being filled, and the arithmetic of its budget and of its time.

use alloc::vec::Vec;
use core::time::Duration;

use crate::company::Company;
use crate::cost::{Costs, Size};
use crate::queue::Item;
use crate::turns::ByClass;
use crate::{Budget, CloseReason, RequestId, Timestamp, WorkerId};

/// A batch under a budget. Holds at least one request once anything was offered, because a request that no credit's
/// budget covers must run alone rather than wait for ever; the model's own limits were checked on admission.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    budget: Budget,
    ceiling: Option<Ceiling<'a>>,
    /// What others put into the same batch.
    company: Company,
    /// In batch order.
    pub(crate) requests: Vec<RequestId>,
    pub(crate) rows: u32,
    pub(crate) tokens: u32,
    pub(crate) bytes: u64,
    squares: u64,
    /// Which classes have a request in it that can still be on time.
    pub(crate) classes: ByClass<bool>,
    /// Whether one of them can still be on time.
    pub(crate) is_on_time: bool,
}

/// How long a batch may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ceiling<'a> {
    pub(crate) costs: &'a Costs,
    pub(crate) worker: WorkerId,
    pub(crate) now: Timestamp,
    /// Whoever is in it.
    pub(crate) time_max: Duration,
    /// What closes it then.
    pub(crate) why: CloseReason,
    /// The earliest due time of those in it that can still be on time, or client's deadline of those that are late.
    pub(crate) due: Timestamp,
}

impl Ceiling<'_> {
    /// Checks that a batch of this size, with a request in it that is due then, takes no longer than it may.
    fn check(&self, size: Size, due: Timestamp) -> Result<(), CloseReason> {
        let time = self.costs.high(self.worker, size);
        if self.now + time > due.min(self.due) {
            return Err(CloseReason::Objective);
        }
        if time > self.time_max { Err(self.why) } else { Ok(()) }
    }
}

impl<'a> Draft<'a> {
    pub(crate) fn new(budget: Budget, ceiling: Option<Ceiling<'a>>, company: Company) -> Self {
        let (requests, classes) = (Vec::new(), ByClass::default());
        Self {
            budget,
            ceiling,
            company,
            requests,
            rows: 0,
            tokens: 0,
            bytes: 0,
            squares: 0,
            classes,
            is_on_time: false,
        }
    }

    /// Takes the request if it fits the rest of the budget, of `rows_max` and of the time, or says what it does not fit.
    pub(crate) fn offer(&mut self, item: Item, rows_max: u32) -> Result<(), CloseReason> {
        let rows = self.rows.saturating_add(item.cost.rows);
        let tokens = self.tokens.saturating_add(item.cost.tokens);
        let bytes = self.bytes.saturating_add(item.cost.bytes);
        let squares = self.squares.saturating_add(item.cost.tokens_squared);
        let size = Size { rows: rows.into(), tokens: tokens.into(), squares };
        // One that is late has nothing to miss any more but its client.
        let due = if item.rank.late { item.deadline } else { item.rank.due };
        if !self.requests.is_empty() {
            let whole = self.company.with(size);
            if rows > rows_max || whole.rows > u64::from(self.budget.rows) {
                return Err(CloseReason::Rows);
            }
            if whole.tokens > u64::from(self.budget.tokens) {
                return Err(CloseReason::Tokens);
            }
            if bytes > self.budget.bytes {
                return Err(CloseReason::Bytes);
            }
            self.ceiling.as_ref().map_or(Ok(()), |ceiling| ceiling.check(whole, due))?;
        }
        if let Some(ceiling) = &mut self.ceiling {
            ceiling.due = ceiling.due.min(due);
        }
        (self.rows, self.tokens, self.bytes, self.squares) = (rows, tokens, bytes, squares);
        self.classes[item.rank.class as usize] |= !item.rank.late;
        self.is_on_time |= !item.rank.late;
        self.requests.push(item.rank.id);
        Ok(())
    }

    /// What its time depends on.
    pub(crate) fn size(&self) -> Size {
        Size { rows: self.rows.into(), tokens: self.tokens.into(), squares: self.squares }
    }
}
