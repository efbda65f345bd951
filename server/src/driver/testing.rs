//! What tests put around a driver.

use tokio::sync::mpsc;

use shoal_scheduler::Epoch;

use super::{ArtifactWanted, CostErrand, Surroundings, ToSupervisor, ToWorker, WorkerUp};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::traces::Tracer;

/// What a driver asks of others arrives here.
pub(crate) struct Errands {
    pub(crate) supervisor: mpsc::UnboundedReceiver<ToSupervisor>,
    pub(crate) artifacts: mpsc::UnboundedReceiver<ArtifactWanted>,
    pub(crate) costs: mpsc::UnboundedReceiver<CostErrand>,
}

impl Surroundings {
    /// Those of a driver that nobody helps but the test.
    pub(crate) fn of_test(registry: Registry, metrics: Metrics) -> (Self, Errands) {
        let (supervisor, for_supervisor) = mpsc::unbounded_channel();
        let (artifacts, for_artifacts) = mpsc::unbounded_channel();
        let (costs, for_costs) = mpsc::unbounded_channel();
        let tracer = Tracer::default();
        let around = Self { registry, metrics, supervisor, artifacts, costs, resident_bytes_max: None, tracer };
        (around, Errands { supervisor: for_supervisor, artifacts: for_artifacts, costs: for_costs })
    }
}

impl WorkerUp {
    /// A worker elsewhere that has sources for nothing and holds nothing, and what it is told.
    pub(crate) fn of_test(epoch: Epoch, name: &str) -> (Self, mpsc::UnboundedReceiver<ToWorker>) {
        let (commands, told) = mpsc::unbounded_channel();
        let up = Self {
            epoch,
            name: name.into(),
            device: "cpu".into(),
            device_class: "cpu".into(),
            gpu: None,
            local: false,
            offers: Vec::new(),
            held: Vec::new(),
            pool: "default".into(),
            commands,
        };
        (up, told)
    }
}
