//! Rules on what is in a batch, in which order, and why it was closed.

use std::collections::{BTreeMap, BTreeSet};

use shoal_scheduler::{BatchId, Class, CloseReason, Dispatch, ModelId, Output, PolicyConfig, RequestId, WorkerId};

use super::{Check, output};
use crate::reference::{Holding, Ledger, Record, Worker, ensure, is_budget};
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
        let batch = match output(entry) {
            Some(Output::Dispatch(dispatch)) => dispatch.batch,
            Some(Output::Probe(probe)) => probe.batch,
            _ => return Ok(()),
        };
        ensure(self.last < Some(batch), || format!("batch id {batch} is not new"))?;
        self.last = Some(batch);
        let Some(Output::Dispatch(dispatch)) = output(entry) else { return Ok(()) };
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

/// Suspects are sent to a worker that has nothing in hand, and nothing is sent to it before they are through.
#[derive(Debug)]
pub(super) struct Solitude;

impl Check for Solitude {
    fn name(&self) -> &'static str {
        "solitude"
    }

    fn see(&mut self, ledger: &Ledger, entry: &Entry) -> Result<(), String> {
        let (worker, is_suspect) = match output(entry) {
            Some(Output::Dispatch(dispatch)) => (dispatch.worker, dispatch.close == CloseReason::Isolated),
            Some(Output::Probe(probe)) => (probe.worker, false),
            _ => return Ok(()),
        };
        let Some(worker) = ledger.workers.get(&worker) else { return Ok(()) };
        ensure(!is_suspect || worker.outstanding.is_empty(), || format!("beside {:?}", worker.outstanding))?;
        ensure(!ledger.runs_suspects(worker), || format!("beside suspects in {:?}", worker.outstanding))
    }
}

/// What is taken of a class is what was most urgent in it, in order; a class is left for a less urgent one only when
/// nothing more of it waits, but for the one that leads. Who is late is taken after all who are not.
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
        let taken_of_late = taken.iter().all(|(_, (late, ..))| *late);
        for class in Class::ALL {
            let taken: Vec<_> = taken.iter().filter(|(of, _)| *of == class).map(|(_, key)| *key).collect();
            // A turn of those who are late passes over all who are not.
            let is_turn = |late: bool| late || !taken_of_late;
            let waiting = waiting(ledger, dispatch).filter(|(_, r)| r.class == class && is_turn(r.late));
            let mut waiting: Vec<_> = waiting.map(|(id, r)| r.key(id)).collect();
            waiting.sort_unstable();
            ensure(waiting.starts_with(&taken), || format!("{class:?}: took {taken:?} of {waiting:?}"))?;
        }
        let lead = taken.first().map(|(class, _)| *class);
        let classes: Vec<_> = taken.iter().map(|(class, (late, ..))| (*late, Some(*class) != lead, *class)).collect();
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
        let is_late = |id: &RequestId| ledger.requests.get(id).is_some_and(|record| record.late);
        let taken_late = dispatch.requests.iter().filter(|id| is_late(id)).count();
        let took_all_on_time = waiting.iter().filter(|(_, record)| !record.late).count() == dispatch.requests.len();
        let rows: u32 = dispatch.requests.iter().filter_map(|id| ledger.requests.get(id)).map(|r| r.cost.rows).sum();
        let policy = ledger.models.get(&dispatch.model).map(|model| &model.policy);
        let is_true = match (dispatch.close, policy) {
            (CloseReason::Drained, _) => took_all || took_all_on_time,
            (CloseReason::Preferred, Some(PolicyConfig::Triton { preferred_rows, .. })) => {
                let mut preferred = preferred_rows.iter().map(|preferred| preferred.get());
                preferred.any(|preferred| preferred == rows || (took_all && preferred <= rows))
            }
            (CloseReason::Delay, Some(PolicyConfig::Triton { queue_delay_max, .. })) => {
                let oldest = waiting.iter().map(|(_, record)| record.arrived).min();
                oldest.is_some_and(|oldest| oldest + *queue_delay_max <= ledger.now)
            }
            (CloseReason::Delay, Some(PolicyConfig::Learned { .. })) => took_all || took_all_on_time,
            // They may be passed over by those who are on time, but for their turn.
            (CloseReason::Late, Some(PolicyConfig::Learned { .. })) => taken_late == dispatch.requests.len(),
            (CloseReason::Objective, policy) => matches!(policy, Some(PolicyConfig::Learned { .. })) && !took_all,
            (CloseReason::Spread, Some(PolicyConfig::Learned { .. })) => !took_all && is_other_idle(ledger, dispatch),
            (close, policy) => is_budget(close) && (!took_all || matches!(policy, Some(PolicyConfig::Triton { .. }))),
        };
        ensure(is_true, || format!("{:?} is not why it was closed, of {} waiting", dispatch.close, waiting.len()))
    }
}

/// Whether another worker that holds the model has a credit and nothing to do.
fn is_other_idle(ledger: &Ledger, dispatch: &Dispatch) -> bool {
    let others = ledger.workers.iter().filter(|(id, _)| **id != dispatch.worker).map(|(_, worker)| worker);
    let is_ready = |worker: &Worker| worker.models.get(&dispatch.model) == Some(&Holding::Ready);
    let mut idle = others.filter(|worker| worker.outstanding.is_empty() && !worker.credits.is_empty());
    idle.any(is_ready)
}

/// A worker does not pass over a class batch after batch.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Batches of a worker since one with the class in it, while it waited.
    classes: BTreeMap<(WorkerId, Class), usize>,
}

/// Sixteen for bulk, and one for standard when both are owed a turn at once.
const CLASS_PASSES_MAX: usize = 17;

impl Check for Patience {
    fn name(&self) -> &'static str {
        "patience"
    }

    fn see(&mut self, ledger: &Ledger, entry: &Entry) -> Result<(), String> {
        let Some(Output::Dispatch(dispatch)) = output(entry) else { return Ok(()) };
        let Some(worker) = ledger.workers.get(&dispatch.worker) else { return Ok(()) };
        if dispatch.close == CloseReason::Hedged {
            return Ok(()); // Of a worker that had nothing else to do.
        }
        let taken: BTreeSet<Class> =
            dispatch.requests.iter().filter_map(|id| ledger.requests.get(id)).map(|record| record.class).collect();
        // Suspects ride with the most urgent of their part, and policies may wait: only the others can count on a turn.
        let is_offered = |id: &ModelId| worker.models.contains_key(id);
        let is_fixed = |id| ledger.models.get(id).is_some_and(|model| model.policy == PolicyConfig::Fixed);
        let plain = ledger.queued().filter(|(_, record)| record.suspect.is_none());
        let plain = plain.filter(|(_, record)| is_offered(&record.model) && is_fixed(&record.model));
        let waiting: BTreeSet<(Class, ModelId)> = plain.map(|(_, record)| (record.class, record.model)).collect();
        let is_ready = |id: &ModelId| worker.models.get(id) == Some(&Holding::Ready);
        for class in Class::ALL {
            let mut of_class = waiting.iter().filter(|(of, _)| *of == class);
            let passes = self.classes.entry((dispatch.worker, class)).or_default();
            if taken.contains(&class) || of_class.clone().next().is_none() {
                *passes = 0;
            } else if of_class.any(|(_, model)| is_ready(model)) {
                *passes += 1;
            }
            let is_bounded = *passes <= CLASS_PASSES_MAX || class == Class::Interactive;
            ensure(is_bounded, || format!("{class:?} was passed over {passes} times"))?;
        }
        Ok(())
    }
}

/// The batch, if the entry is one of waiting requests: not a part of a failed one, not run a second time.
fn fresh(entry: &Entry) -> Option<&Dispatch> {
    match output(entry)? {
        Output::Dispatch(dispatch) if !matches!(dispatch.close, CloseReason::Isolated | CloseReason::Hedged) => {
            Some(dispatch)
        }
        _ => None,
    }
}

/// The requests that waited for the model of a batch and could have been in it, those in it included.
fn waiting<'a>(ledger: &'a Ledger, dispatch: &Dispatch) -> impl Iterator<Item = (RequestId, &'a Record)> {
    let model = dispatch.model;
    ledger.queued().filter(move |(_, record)| record.model == model && record.suspect.is_none())
}
