//! Rules on what is in a batch, in which order, and why it was closed.

use std::collections::BTreeSet;

use shoal_scheduler::{BatchId, Class, CloseReason, Dispatch, Output, PolicyConfig, RequestId};

use super::{Check, output};
use crate::reference::{Ledger, Record, ensure, is_budget};
use crate::transcript::Entry;

/// A batch has one model and no request twice, its id is new, and suspects are only with the suspects of one batch.
#[derive(Debug, Default)]
pub(super) struct Homogeneity {
    last: Option<BatchId>,
}

impl Check for Homogeneity {
    fn name(&self) -> &'static str {
        "homogeneity"
    }

    fn see(&mut self, ledger: &Ledger, entry: &Entry) -> Result<(), String> {
        let Some(Output::Dispatch(dispatch)) = output(entry) else { return Ok(()) };
        ensure(self.last < Some(dispatch.batch), || format!("batch id {} is not new", dispatch.batch))?;
        self.last = Some(dispatch.batch);
        let unique: BTreeSet<_> = dispatch.requests.iter().collect();
        ensure(unique.len() == dispatch.requests.len(), || "a request is in it twice".into())?;
        ensure(!unique.is_empty(), || "it is empty".into())?;
        let records = || dispatch.requests.iter().filter_map(|id| ledger.requests.get(id));
        ensure(records().all(|record| record.model == dispatch.model), || "models are mixed".into())?;
        let origins: BTreeSet<_> = records().map(|record| record.suspect).collect();
        ensure(origins.len() == 1, || format!("suspects are mixed: {origins:?}"))?;
        let origin = origins.into_iter().flatten().next();
        ensure(origin.is_some() == (dispatch.close == CloseReason::Isolated), || {
            format!("{origin:?} is not isolated")
        })?;
        ensure(origin.is_none_or(|(_, half)| dispatch.requests.len() <= half), || "suspects were not halved".into())
    }
}

/// What is taken of a class is what was most urgent in it, in order; a class is left for a less urgent one only when
/// nothing more of it waits, but for the one that leads.
#[derive(Debug)]
pub(super) struct Order;

impl Check for Order {
    fn name(&self) -> &'static str {
        "order"
    }

    fn see(&mut self, ledger: &Ledger, entry: &Entry) -> Result<(), String> {
        let Some(dispatch) = fresh(entry) else { return Ok(()) };
        let taken: Vec<(Class, _)> = dispatch
            .requests
            .iter()
            .filter_map(|id| ledger.requests.get(id).map(|record| (record.class, record.key(*id))))
            .collect();
        for class in Class::ALL {
            let taken: Vec<_> = taken.iter().filter(|(of, _)| *of == class).map(|(_, key)| *key).collect();
            let mut waiting: Vec<_> =
                waiting(ledger, dispatch).filter(|(_, r)| r.class == class).map(|(id, r)| r.key(id)).collect();
            waiting.sort_unstable();
            ensure(waiting.starts_with(&taken), || format!("{class:?}: took {taken:?} of {waiting:?}"))?;
        }
        let lead = taken.first().map(|(class, _)| *class);
        let classes: Vec<_> = taken.iter().map(|(class, _)| *class).skip_while(|class| Some(*class) == lead).collect();
        ensure(classes.is_sorted(), || format!("classes are mixed: {classes:?}"))
    }
}

/// The reason a batch gives for being closed is the reason.
#[derive(Debug)]
pub(super) struct CloseReasons;

impl Check for CloseReasons {
    fn name(&self) -> &'static str {
        "close reasons"
    }

    fn see(&mut self, ledger: &Ledger, entry: &Entry) -> Result<(), String> {
        let Some(dispatch) = fresh(entry) else { return Ok(()) };
        let waiting: Vec<_> = waiting(ledger, dispatch).collect();
        let took_all = waiting.len() == dispatch.requests.len();
        let rows: u32 = dispatch.requests.iter().filter_map(|id| ledger.requests.get(id)).map(|r| r.cost.rows).sum();
        let policy = ledger.models.get(&dispatch.model).map(|model| &model.policy);
        let is_true = match (dispatch.close, policy) {
            (CloseReason::Drained, _) => took_all,
            (CloseReason::Preferred, Some(PolicyConfig::Triton { preferred_rows, .. })) => {
                let mut preferred = preferred_rows.iter().map(|preferred| preferred.get());
                preferred.any(|preferred| preferred == rows || (took_all && preferred <= rows))
            }
            (CloseReason::Delay, Some(PolicyConfig::Triton { queue_delay_max, .. })) => {
                let oldest = waiting.iter().map(|(_, record)| record.arrived).min();
                oldest.is_some_and(|oldest| oldest + *queue_delay_max <= ledger.now)
            }
            (close, policy) => is_budget(close) && (!took_all || matches!(policy, Some(PolicyConfig::Triton { .. }))),
        };
        ensure(is_true, || format!("{:?} is not why it was closed, of {} waiting", dispatch.close, waiting.len()))
    }
}

/// The batch, if the entry is one that is not a part of a failed one.
fn fresh(entry: &Entry) -> Option<&Dispatch> {
    match output(entry)? {
        Output::Dispatch(dispatch) if dispatch.close != CloseReason::Isolated => Some(dispatch),
        _ => None,
    }
}

/// The requests that waited for the model of a batch and could have been in it, those in it included.
fn waiting<'a>(ledger: &'a Ledger, dispatch: &Dispatch) -> impl Iterator<Item = (RequestId, &'a Record)> {
    let model = dispatch.model;
    ledger.queued().filter(move |(_, record)| record.model == model && record.suspect.is_none())
}
