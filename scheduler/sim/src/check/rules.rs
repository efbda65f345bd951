//! Rules on time, credits, progress, guilt, models and the end.

use std::collections::{BTreeMap, BTreeSet};

use shoal_scheduler::{CloseReason, Counts, Epoch, Failure, ModelId, Output, PolicyConfig, RequestId, WorkerId};

use super::{Check, output};
use crate::reference::{Holding, Ledger, State, Worker, ensure};
use crate::transcript::{Entry, What};
use crate::workload::Nature;

/// Nothing is sent or completed at or after its deadline.
#[derive(Debug)]
pub(super) struct Deadlines;

impl Check for Deadlines {
    fn name(&self) -> &'static str {
        "deadlines"
    }

    fn see(&mut self, ledger: &Ledger, entry: &Entry) -> Result<(), String> {
        let is_late = |id: &RequestId| ledger.requests.get(id).is_some_and(|record| record.deadline <= ledger.now);
        let late = match output(entry) {
            Some(Output::Dispatch(dispatch)) => dispatch.requests.iter().find(|id| is_late(id)),
            Some(Output::Complete { request }) => Some(request).filter(|id| is_late(id)),
            _ => None,
        };
        ensure(late.is_none(), || format!("request {late:?} is past its deadline"))
    }
}

/// Every batch spends a credit that its worker gave in its present epoch, for a model it holds, within the budget.
#[derive(Debug)]
pub(super) struct Credits;

impl Check for Credits {
    fn name(&self) -> &'static str {
        "credits"
    }

    fn see(&mut self, ledger: &Ledger, entry: &Entry) -> Result<(), String> {
        let (at, epoch, slot, of) = match output(entry) {
            Some(Output::Dispatch(dispatch)) => (dispatch.worker, dispatch.epoch, dispatch.slot, dispatch.model),
            Some(Output::Probe(probe)) => (probe.worker, probe.epoch, probe.slot, probe.model),
            _ => return Ok(()),
        };
        let worker = ledger.workers.get(&at).filter(|worker| worker.epoch == epoch);
        let worker = worker.ok_or("the worker is not connected in that epoch")?;
        ensure(worker.models.get(&of) == Some(&Holding::Ready), || "the worker lacks the model".into())?;
        let credit = worker.credits.get(&slot).ok_or("the slot has no credit")?;
        let model = ledger.models.get(&of).ok_or("the model is not configured")?;
        let (rows, tokens, bytes, is_one) = match output(entry) {
            Some(Output::Dispatch(dispatch)) => {
                let costs = || dispatch.requests.iter().filter_map(|id| ledger.requests.get(id)).map(|of| of.cost);
                let (rows, tokens): (u32, u32) = (costs().map(|c| c.rows).sum(), costs().map(|c| c.tokens).sum());
                (rows, tokens, costs().map(|c| c.bytes).sum(), dispatch.requests.len() == 1)
            }
            Some(Output::Probe(probe)) => (probe.rows, probe.rows * probe.tokens, 0, false),
            _ => return Ok(()),
        };
        let fits = rows <= credit.rows.min(model.batch_rows_max.get())
            && tokens <= credit.tokens.min(model.batch_tokens_max.get())
            && bytes <= credit.bytes;
        ensure(fits || is_one, || format!("{rows} rows, {tokens} tokens, {bytes} bytes exceed {credit:?}"))
    }
}

/// No request waits while a worker that holds its model has a credit, unless its policy still waits or a worker is held for
/// suspects; and those wait for no idle worker.
#[derive(Debug)]
pub(super) struct Progress;

impl Check for Progress {
    fn name(&self) -> &'static str {
        "progress"
    }

    fn see(&mut self, ledger: &Ledger, entry: &Entry) -> Result<(), String> {
        if entry.what != What::Settled {
            return Ok(());
        }
        let parts = ledger.queued().filter(|(_, record)| record.suspect.is_some()).map(|(_, record)| record.model);
        let parts: BTreeSet<ModelId> = parts.collect();
        for (id, model) in &ledger.models {
            let takes = |worker: &&Worker| {
                !worker.credits.is_empty()
                    && worker.models.get(id) == Some(&Holding::Ready)
                    && !ledger.runs_suspects(worker)
            };
            let takers = || ledger.workers.values().filter(takes);
            let is_idle = takers().any(|worker| worker.outstanding.is_empty());
            // A part waits for one that is trusted rather than go to one that is not.
            let is_trusted_idle = takers().any(|worker| worker.outstanding.is_empty() && !worker.may_be_slow);
            // Nothing is put behind a batch of a worker that was slow, where it is known what is.
            let busy = takers().filter(|worker| !worker.outstanding.is_empty() && !worker.may_be_slow);
            // One may be held for the suspects of each model, until it has nothing else in hand.
            let has_credit = is_idle || busy.count() > parts.len();
            let plain = || ledger.queued().filter(|(_, record)| record.model == *id && record.suspect.is_none());
            ensure(!is_trusted_idle || !parts.contains(id), || {
                format!("a worker is idle and suspects of model {id} wait")
            })?;
            let oldest = plain().map(|(_, record)| record.arrived).min();
            let Some(oldest) = oldest.filter(|_| has_credit) else { continue };
            let may_wait = match &model.policy {
                // Those are measured, not promised.
                PolicyConfig::Baseline(_) => true,
                PolicyConfig::Fixed => false,
                PolicyConfig::Triton { queue_delay_max, .. } => oldest + *queue_delay_max > ledger.now,
                // For more to come, or for a faster worker.
                PolicyConfig::Learned { .. } => plain().any(|(_, record)| !record.late && record.due > ledger.now),
            };
            ensure(may_wait && ledger.drain.is_none(), || {
                let waiting = plain().map(|(id, _)| id).collect::<Vec<_>>();
                format!("model {id} has a credit and leaves {waiting:?} waiting")
            })?;
        }
        Ok(())
    }
}

/// Only what is bad is convicted, unless something befell the worker that made it look bad.
#[derive(Debug, Default)]
pub(super) struct Innocence {
    natures: BTreeMap<RequestId, Nature>,
    struck: BTreeSet<(WorkerId, Epoch)>,
    /// Where each request ran last, with its hedge.
    ran_on: BTreeMap<RequestId, Vec<(WorkerId, Epoch)>>,
}

impl Check for Innocence {
    fn name(&self) -> &'static str {
        "innocence"
    }

    fn see(&mut self, _ledger: &Ledger, entry: &Entry) -> Result<(), String> {
        match &entry.what {
            What::Nature { request, nature } => drop(self.natures.insert(*request, *nature)),
            What::Struck { worker, epoch } => drop(self.struck.insert((*worker, *epoch))),
            What::Did(Output::Dispatch(dispatch)) => {
                let place = (dispatch.worker, dispatch.epoch);
                for id in &dispatch.requests {
                    let ran_on = self.ran_on.entry(*id).or_default();
                    if dispatch.close != CloseReason::Hedged {
                        ran_on.clear();
                    }
                    ran_on.push(place);
                }
            }
            What::Did(Output::Fail { request, why }) => {
                let nature = self.natures.get(request).copied().unwrap_or(Nature::Sound);
                let was_struck =
                    self.ran_on.get(request).is_some_and(|on| on.iter().any(|place| self.struck.contains(place)));
                let is_just = match why {
                    Failure::Poison => was_struck || !matches!(nature, Nature::Sound | Nature::Refused),
                    Failure::OutOfMemory => was_struck || nature == Nature::TooBig,
                    Failure::Item => nature == Nature::Refused,
                    Failure::DeadlinePassed
                    | Failure::QueueTimeout
                    | Failure::Shed { .. }
                    | Failure::WorkerLost { .. }
                    | Failure::ModelRemoved
                    | Failure::Drained => true,
                };
                ensure(is_just, || format!("request {request} is {nature:?} and was failed for {why:?}"))?;
            }
            What::Did(Output::Complete { request }) => {
                let nature = self.natures.get(request).copied().unwrap_or(Nature::Sound);
                ensure(nature == Nature::Sound, || format!("request {request} is {nature:?} and has a result"))?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Models are loaded where they are offered and wanted, once, and unloaded when they are not wanted and nothing of them
/// runs.
#[derive(Debug)]
pub(super) struct Models;

impl Models {
    fn holding(ledger: &Ledger, worker: WorkerId, epoch: Epoch, model: ModelId) -> Result<Holding, String> {
        let worker = ledger.workers.get(&worker).filter(|worker| worker.epoch == epoch);
        let holding = worker.and_then(|worker| worker.models.get(&model));
        holding.copied().ok_or_else(|| format!("model {model} is not offered there"))
    }
}

impl Check for Models {
    fn name(&self) -> &'static str {
        "models"
    }

    fn see(&mut self, ledger: &Ledger, entry: &Entry) -> Result<(), String> {
        match &entry.what {
            What::Did(Output::Load { worker, epoch, model }) => {
                let holding = Self::holding(ledger, *worker, *epoch, *model)?;
                // A worker does as it is told, one thing after the other: what it unloads it can load again right after.
                let is_absent = matches!(holding, Holding::Untouched | Holding::Gone | Holding::Unloading);
                ensure(is_absent && ledger.models.contains_key(model), || format!("loads model {model}, {holding:?}"))
            }
            What::Did(Output::Unload { worker, epoch, model }) => {
                let holding = Self::holding(ledger, *worker, *epoch, *model)?;
                let runs = |batch| ledger.batches.get(batch).is_some_and(|batch| batch.model == *model);
                let is_idle = ledger.workers.get(worker).is_some_and(|worker| !worker.outstanding.iter().any(runs));
                let is_unwanted = !ledger.models.contains_key(model);
                ensure(is_idle && is_unwanted && holding == Holding::Ready, || {
                    format!("unloads model {model}, {holding:?}, idle {is_idle}, unwanted {is_unwanted}")
                })
            }
            What::Settled => {
                for (id, worker) in &ledger.workers {
                    for (model, holding) in &worker.models {
                        let is_wanted = ledger.models.contains_key(model);
                        let is_idle = !worker.outstanding.iter().any(|id| ledger.batches[id].model == *model);
                        ensure(!is_wanted || *holding != Holding::Untouched, || format!("{model} not loaded on {id}"))?;
                        ensure(is_wanted || !is_idle || *holding != Holding::Ready, || {
                            format!("{model} not unloaded on {id}")
                        })?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// At the end nothing is left.
#[derive(Debug)]
pub(super) struct Rest;

impl Check for Rest {
    fn name(&self) -> &'static str {
        "rest"
    }

    fn see(&mut self, ledger: &Ledger, entry: &Entry) -> Result<(), String> {
        let What::Finished(counts) = &entry.what else { return Ok(()) };
        let Counts { bytes_queued, running, batches, .. } = *counts;
        let left = (counts.queued(), bytes_queued, running, batches);
        ensure(left == (0, 0, 0, 0), || format!("queued, bytes, running, batches are {left:?}"))?;
        let live = ledger.requests.values().filter(|record| record.state != State::Ended).count();
        ensure(live == 0, || format!("{live} requests have no outcome"))
    }
}
