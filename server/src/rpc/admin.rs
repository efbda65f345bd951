//! `shoal.v1.Admin`: how things stand, for operators, on a listener of its own.

use std::time::Duration;

use shoal_proto::v1::{self as wire, admin_server};
use shoal_scheduler::WaitCause;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::driver::Handle;
use crate::explain::{CallStanding, ModelStanding, Report, Running, WorkerStanding};
use crate::frontend::by_deadline;
use crate::registry::Registry;

use super::caller::deadline;
use super::inference::{duration, state, waits};
use super::status::status;

/// How long a busy driver may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Waiting calls that are told to who does not say how many they want.
const CALLS_DEFAULT: usize = 10;

/// The service.
#[derive(Clone, Debug)]
pub struct AdminService {
    driver: Handle,
    registry: Registry,
    draining: CancellationToken,
}

impl AdminService {
    /// A service that asks `driver`.
    pub fn new(driver: Handle, registry: Registry, draining: CancellationToken) -> Self {
        Self { driver, registry, draining }
    }

    async fn report(&self, request: wire::ExplainRequest) -> Result<wire::ExplainResponse, Status> {
        let wire::ExplainRequest { model, calls_max } = request;
        let model = match model.as_str() {
            "" => None,
            name => Some(self.registry.model(name).map_err(|error| status(&error))?.name.clone()),
        };
        let calls_max = if calls_max == 0 { CALLS_DEFAULT } else { calls_max as usize };
        match self.driver.explain(model, calls_max, PATIENCE).await {
            Some(report) => Ok(told(&report, self.draining.is_cancelled())),
            None => {
                let patience = humantime::format_duration(PATIENCE);
                Err(Status::unavailable(format!("the server is too busy to say within {patience} how things stand")))
            }
        }
    }
}

#[tonic::async_trait]
impl admin_server::Admin for AdminService {
    async fn explain(&self, request: Request<wire::ExplainRequest>) -> Result<Response<wire::ExplainResponse>, Status> {
        let until = deadline(request.extensions());
        let report = async { Ok(self.report(request.into_inner()).await) };
        by_deadline(until, report).await.map_err(|late| status(&late))?.map(Response::new)
    }
}

fn told(report: &Report, draining: bool) -> wire::ExplainResponse {
    wire::ExplainResponse {
        models: report.models.iter().map(model).collect(),
        workers: report.workers.iter().map(worker).collect(),
        calls: report.calls.iter().map(call).collect(),
        open_calls: report.open_calls,
        draining,
    }
}

fn model(model: &ModelStanding) -> wire::ExplainedModel {
    let [interactive, standard, bulk] = model.queued.on_time;
    let (late, apart) = (model.queued.late, model.queued.apart);
    let counts = |counts: &[(&'static str, u64)]| {
        counts.iter().map(|&(reason, count)| wire::ReasonCount { reason: reason.to_owned(), count }).collect()
    };
    wire::ExplainedModel {
        name: model.name.to_string(),
        text: model.text(),
        state: state(&model.state).0.into(),
        objective: Some(duration(model.objective)),
        workers: model.workers,
        cost: model.cost.map(|known| wire::LearnedCost {
            text: model.cost_text.clone(),
            per_batch: Some(duration(Duration::from_nanos(known.cost.base_ns))),
            per_row: Some(duration(Duration::from_nanos(known.cost.row_ns))),
            per_token_nanos: known.cost.token_ps as f64 / 1e3,
            per_token_squared_nanos: known.cost.token_squared_fs as f64 / 1e6,
            batches: known.samples,
        }),
        queued: Some(wire::QueuedRows { interactive, standard, bulk, late, apart }),
        oldest_age: model.oldest_age.map(duration),
        next_due_in: model.next_due_in.map(duration),
        waits_for: model.waits_for.map_or(wire::WaitReason::Unspecified, reason).into(),
        looks_again_in: model.looks_again_in.map(duration),
        recent_batches: model.recent_batches,
        recent_rows: model.recent_rows,
        recent_closes: counts(&model.closes),
        recent_refusals: counts(&model.refusals),
    }
}

fn worker(worker: &WorkerStanding) -> wire::ExplainedWorker {
    let names = |names: &[std::sync::Arc<str>]| names.iter().map(ToString::to_string).collect();
    wire::ExplainedWorker {
        name: worker.name.to_string(),
        text: worker.text(),
        device: worker.device.clone(),
        credits: worker.credits,
        free_in: worker.free_in.map(duration),
        suspect: worker.suspect_for.is_some(),
        ready: names(&worker.ready),
        loading: names(&worker.loading),
        running: worker.running.iter().map(running).collect(),
    }
}

fn running(batch: &Running) -> wire::RunningBatch {
    wire::RunningBatch {
        model: batch.model.to_string(),
        rows: batch.rows,
        tokens: batch.tokens,
        attempt: batch.attempt.into(),
        sent_ago: Some(duration(batch.sent_ago)),
        running_for: batch.running_for.map(duration),
        expected_time: batch.expected.map(duration),
        probe: batch.is_probe,
        hedge: batch.is_hedge,
        apart: batch.is_apart,
    }
}

fn call(call: &CallStanding) -> wire::WaitingCall {
    wire::WaitingCall {
        model: call.model.to_string(),
        tenant: call.tenant.to_string(),
        class: call.class_name().to_owned(),
        trace_id: call.trace_id.clone(),
        waited: Some(duration(call.waited.total())),
        waits: Some(waits(&call.waited)),
        position: call.position,
        rows: call.rows,
        open_rows: call.open_rows,
        waits_for: reason(call.waits_for).into(),
        deadline_in: call.deadline_in.map(duration),
        text: call.text(),
        late: call.is_late,
    }
}

fn reason(cause: WaitCause) -> wire::WaitReason {
    match cause {
        WaitCause::NoWorker => wire::WaitReason::NoWorker,
        WaitCause::Loading => wire::WaitReason::Loading,
        WaitCause::WorkersBusy => wire::WaitReason::WorkersBusy,
        WaitCause::SuspectWorker => wire::WaitReason::SuspectWorker,
        WaitCause::FullerBatch => wire::WaitReason::FullerBatch,
    }
}

#[cfg(test)]
mod tests;
