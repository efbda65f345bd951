//! Rules on batches that nobody asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_scheduler::{Input, ModelId, Output, PolicyConfig, Probe, Timestamp, WorkerId};

use super::Check;
use crate::reference::{Holding, Ledger, ensure};
use crate::transcript::{Entry, What};

/// What the probes of one model may take of a worker's time.
const TIME_MAX: Duration = Duration::from_secs(2);

/// Probes are sent of models of which it was said that they may be found out, one at a time, all to one worker, when
/// that has nothing else to do, for a bounded time, and none after one that did not end well.
#[derive(Debug, Default)]
pub(super) struct Probes {
    allowed: BTreeMap<ModelId, Allowance>,
}

#[derive(Debug, Default)]
struct Allowance {
    running: Option<(Probe, Timestamp)>,
    worker: Option<WorkerId>,
    spent: Duration,
}

impl Check for Probes {
    fn name(&self) -> &'static str {
        "probes"
    }

    fn see(&mut self, ledger: &Ledger, entry: &Entry) -> Result<(), String> {
        match &entry.what {
            What::Told(Input::Calibrate { model, .. }) if ledger.models.contains_key(model) => {
                self.allowed.entry(*model).or_default();
            }
            What::Told(Input::ConfigChanged(models)) => {
                self.allowed.retain(|id, _| models.iter().any(|model| model.id == *id));
            }
            What::Told(Input::BatchEnd { worker, epoch, batch, attempt, .. }) => {
                let is_it = |probe: &Probe| {
                    (probe.worker, probe.epoch, probe.batch, probe.attempt) == (*worker, *epoch, *batch, *attempt)
                };
                for allowance in self.allowed.values_mut() {
                    if let Some((_, since)) = allowance.running.take_if(|(probe, _)| is_it(probe)) {
                        allowance.spent += ledger.now.max(entry.at).since(since);
                    }
                }
            }
            What::Did(Output::Probe(probe)) => self.sent(ledger, probe)?,
            What::Did(Output::Calibrated { model, .. }) => {
                ensure(self.allowed.remove(model).is_some(), || format!("{model} was not being found out"))?;
            }
            What::Settled => {
                let running = self.allowed.values().filter_map(|allowance| allowance.running);
                for (probe, _) in running {
                    ensure(ledger.batches.contains_key(&probe.batch), || {
                        format!("goes on after the loss of {probe:?}")
                    })?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Probes {
    fn sent(&mut self, ledger: &Ledger, probe: &Probe) -> Result<(), String> {
        let Probe { worker, model, .. } = *probe;
        let holds =
            |id: WorkerId| ledger.workers.get(&id).is_some_and(|w| w.models.get(&model) == Some(&Holding::Ready));
        let allowance = self.allowed.get_mut(&model).ok_or_else(|| format!("nobody wants to know {model}"))?;
        ensure(allowance.running.is_none(), || format!("{:?} still runs", allowance.running))?;
        ensure(allowance.spent < TIME_MAX, || format!("{:?} were spent", allowance.spent))?;
        ensure(allowance.worker.is_none_or(|before| before == worker || !holds(before)), || {
            format!("{model} was with {:?} and is with {worker}", allowance.worker)
        })?;
        ensure(ledger.drain.is_none(), || "the server is shutting down".into())?;
        let is_learned = ledger.models.get(&model).map(|of| matches!(of.policy, PolicyConfig::Learned { .. }));
        ensure(is_learned == Some(true), || format!("the policy of {model} does not ask"))?;
        let prober = ledger.workers.get(&worker).ok_or("the worker is not connected")?;
        ensure(prober.outstanding.is_empty(), || format!("the worker runs {:?}", prober.outstanding))?;
        let waits = ledger.queued().find(|(_, record)| prober.models.get(&record.model) == Some(&Holding::Ready));
        ensure(waits.is_none(), || format!("{waits:?} waits for the worker"))?;
        (allowance.running, allowance.worker) = (Some((*probe, ledger.now)), Some(worker));
        Ok(())
    }
}
