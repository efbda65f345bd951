//! Finding out what batches of a model cost while nobody asks for it, and what is known of that from elsewhere.
//!
//! A probe goes only where nothing else could: to a worker with a credit that runs nothing and for which nothing
//! waits. It is a batch without requests: it ends, fails and goes overdue like any other. One that does not end well
//! ends them all, so that no probe is ever tried again.

use alloc::vec::Vec;
use core::ops::Bound;
use core::time::Duration;

use super::Scheduler;
use crate::cost::{Costs, Size};
use crate::fleet::Link;
use crate::inflight::Batch;
use crate::probes::{Calibration, Sample, Shape};
use crate::{Attempt, BatchCost, BatchId, Budget, LearnedCost, ModelId, Output, Probe, ProbeRow, Slot, WorkerId};

/// What is to become of a model's probes now.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// One can be sent.
    Send { worker: WorkerId, slot: Slot, budget: Budget, step: (usize, Shape) },
    /// There is nothing more to find out.
    End,
}

impl Scheduler {
    /// What batches of a model cost on a worker of its usual pace, from wherever that is known; `None` while it is not.
    pub fn cost(&self, model: ModelId) -> Option<LearnedCost> {
        self.models.get(&model)?.costs.known()
    }

    /// What batches of a model were found to cost on this worker; `None` until one of them ended there.
    pub fn cost_on(&self, model: ModelId, worker: WorkerId) -> Option<LearnedCost> {
        self.models.get(&model)?.costs.learned(worker)
    }

    /// What a model's batches cost was known before.
    pub(super) fn cost_known(&mut self, id: ModelId, cost: BatchCost) {
        let Some(model) = self.models.get_mut(&id) else { return };
        if model.costs.suppose(cost.into()) {
            self.stirred.insert(id);
        }
        self.end_calibration(id);
    }

    /// What a model's batches cost may be found out.
    pub(super) fn calibrate(&mut self, id: ModelId, row: ProbeRow) {
        let is_open = |costs: &Costs| !costs.has_prior() && !Calibration::is_needless(costs.samples());
        if self.models.get(&id).is_some_and(|model| is_open(&model.costs)) {
            self.calibrations.entry(id).or_insert_with(|| Calibration::new(row));
        }
    }

    /// Sends probes to workers that have nothing else to do.
    pub(super) fn send_probes(&mut self) {
        let mut next = self.calibrations.first_key_value().map(|(id, _)| *id);
        while let Some(id) = next {
            next = self.calibrations.range((Bound::Excluded(id), Bound::Unbounded)).next().map(|(id, _)| *id);
            match self.next_probe(id) {
                Some(Next::Send { worker, slot, budget, step }) => self.send_probe(id, worker, slot, budget, step),
                Some(Next::End) => self.end_calibration(id),
                None => {}
            }
        }
        // Of those that ended something was learned.
        self.dispatch();
    }

    /// A probe ended well.
    pub(super) fn probe_ended(&mut self, id: BatchId, batch: &Batch) {
        let time_max = self.probe_time_max(batch.worker);
        let Some(calibration) = self.calibrations.get_mut(&batch.model) else { return };
        if calibration.batch != Some(id) {
            return; // Of a model that was taken out and put back meanwhile.
        }
        let taken = batch.computed(self.now).unwrap_or(batch.expected);
        calibration.learn(batch.worker, taken);
        if calibration.is_done(time_max) {
            self.end_calibration(batch.model);
        }
    }

    /// A probe did not end well, or its worker is gone.
    pub(super) fn probe_failed(&mut self, id: BatchId, batch: &Batch) {
        if self.calibrations.get(&batch.model).is_some_and(|calibration| calibration.batch == Some(id)) {
            self.end_calibration(batch.model);
        }
    }

    /// Whether some probe could go that did not.
    pub(super) fn is_probe_due(&self) -> bool {
        self.calibrations.keys().any(|id| self.next_probe(*id).is_some())
    }

    /// No more probes of a model: what they found is learned.
    fn end_calibration(&mut self, id: ModelId) {
        let Some(calibration) = self.calibrations.remove(&id) else { return };
        let spent = calibration.spent();
        let samples = calibration.into_samples();
        let batches = u32::try_from(samples.len()).unwrap_or(u32::MAX);
        let Some(model) = self.models.get_mut(&id) else { return };
        for Sample { worker, size, taken, .. } in samples {
            model.costs.observe(worker, size, taken);
            if self.fleet.link(worker).is_none() {
                model.costs.forget(worker);
            }
        }
        self.stirred.insert(id);
        self.outputs.push_back(Output::Calibrated { model: id, batches, spent });
    }

    fn next_probe(&self, id: ModelId) -> Option<Next> {
        let (calibration, model) = (self.calibrations.get(&id)?, self.models.get(&id)?);
        if calibration.batch.is_some() || self.is_draining() || model.on_late().is_none() {
            return None;
        }
        if Calibration::is_needless(model.costs.samples()) {
            return Some(Next::End);
        }
        let worker = self.prober(id, calibration)?;
        let (slot, budget) = self.credit(id, worker)?;
        Some(match calibration.next(worker, budget, self.probe_time_max(worker)) {
            Some(step) => Next::Send { worker, slot, budget, step },
            None => Next::End,
        })
    }

    /// How long a probe may take on a worker: whoever asks for a model of it meanwhile waits, and must have time left.
    fn probe_time_max(&self, worker: WorkerId) -> Duration {
        let models = self.fleet.link(worker).into_iter().flat_map(Link::ready_models);
        models.filter_map(|id| Some(self.models.get(&id)?.probe_time_max())).min().unwrap_or_default()
    }

    /// The worker that a probe of a model can go to: always the same one, as long as it holds the model.
    fn prober(&self, id: ModelId, calibration: &Calibration) -> Option<WorkerId> {
        let is_ready = |worker: &WorkerId| self.fleet.link(*worker).is_some_and(|link| link.is_ready(id));
        let is_idle = |link: &Link| {
            let waits = |model: ModelId| self.models.get(&model).is_some_and(|model| !model.queue.is_empty());
            link.best_credit().is_some() && link.outstanding.is_empty() && !link.ready_models().any(waits)
        };
        match calibration.worker.filter(is_ready) {
            Some(worker) => self.fleet.link(worker).is_some_and(is_idle).then_some(worker),
            None => {
                let mut idle = self.fleet.connected().filter(|(_, _, link)| link.is_ready(id) && is_idle(link));
                idle.next().map(|(worker, _, _)| worker)
            }
        }
    }

    fn send_probe(&mut self, id: ModelId, worker: WorkerId, slot: Slot, budget: Budget, step: (usize, Shape)) {
        let batch = self.inflight.next_id();
        let (Some(calibration), Some(model), Some(epoch)) =
            (self.calibrations.get_mut(&id), self.models.get(&id), self.fleet.get(worker).map(|worker| worker.epoch))
        else {
            return;
        };
        let (_, shape) = step;
        let expected = calibration.begin(step, worker, budget);
        calibration.batch = Some(batch);
        self.inflight.insert(Batch {
            worker,
            epoch,
            model: id,
            attempt: Attempt(1),
            requests: Vec::new(),
            withdrawn: Vec::new(),
            rows: shape.rows,
            tokens: shape.tokens_in_all(),
            squares: shape.size().squares,
            expected,
            others: Size::default(),
            begun: true,
            sent: self.now,
            started: None,
            page_in: Duration::ZERO,
            isolated: false,
            is_hedge: false,
            twin: None,
            spared: 0,
            patience: None,
            slow_at: None,
            is_probe: true,
            time_max: model.config.batch_time_max,
            overdue: None,
        });
        self.hand_over(worker, slot, batch, shape.rows, expected);
        let Shape { rows, tokens } = shape;
        let probe = Probe { batch, worker, epoch, slot, model: id, attempt: Attempt(1), rows, tokens };
        self.outputs.push_back(Output::Probe(probe));
    }
}
