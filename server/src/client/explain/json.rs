//! An explanation for programs: the fields of the answer by their names, times in microseconds.

use serde_json::{Value, json};
use shoal_proto::v1::model::State;
use shoal_proto::v1::{
    ExplainResponse, ExplainedModel, ExplainedWorker, ReasonCount, RunningBatch, WaitReason, WaitingCall, Waits,
};

use crate::client::ask::micros;

/// All of it on one line.
pub(super) fn line(answer: &ExplainResponse) -> String {
    let value = json!({
        "models": answer.models.iter().map(model).collect::<Vec<_>>(),
        "workers": answer.workers.iter().map(worker).collect::<Vec<_>>(),
        "calls": answer.calls.iter().map(call).collect::<Vec<_>>(),
        "open_calls": answer.open_calls,
        "draining": answer.draining,
    });
    format!("{value}\n")
}

fn model(model: &ExplainedModel) -> Value {
    let queued = model.queued.unwrap_or_default();
    json!({
        "name": model.name,
        "text": model.text,
        "state": match model.state() {
            State::Unspecified => None,
            State::Unloaded => Some("unloaded"),
            State::Loading => Some("loading"),
            State::Ready => Some("ready"),
            State::Failed => Some("failed"),
        },
        "objective_us": model.objective.as_ref().map(micros),
        "workers": model.workers,
        "cost": model.cost.as_ref().map(|cost| json!({
            "text": cost.text,
            "per_batch_us": cost.per_batch.as_ref().map(nanos).map(to_micros),
            "per_row_us": cost.per_row.as_ref().map(nanos).map(to_micros),
            "per_token_us": to_micros(cost.per_token_nanos),
            "per_token_squared_us": to_micros(cost.per_token_squared_nanos),
            "batches": cost.batches,
        })),
        "queued": {
            "interactive": queued.interactive,
            "standard": queued.standard,
            "bulk": queued.bulk,
            "late": queued.late,
            "apart": queued.apart,
        },
        "oldest_age_us": model.oldest_age.as_ref().map(micros),
        "next_due_in_us": model.next_due_in.as_ref().map(micros),
        "waits_for": reason(model.waits_for()),
        "looks_again_in_us": model.looks_again_in.as_ref().map(micros),
        "recent_batches": model.recent_batches,
        "recent_rows": model.recent_rows,
        "recent_closes": counts(&model.recent_closes),
        "recent_refusals": counts(&model.recent_refusals),
    })
}

fn worker(worker: &ExplainedWorker) -> Value {
    json!({
        "name": worker.name,
        "text": worker.text,
        "device": worker.device,
        "credits": worker.credits,
        "free_in_us": worker.free_in.as_ref().map(micros),
        "suspect": worker.suspect,
        "ready": worker.ready,
        "loading": worker.loading,
        "running": worker.running.iter().map(running).collect::<Vec<_>>(),
    })
}

fn running(batch: &RunningBatch) -> Value {
    json!({
        "model": batch.model,
        "rows": batch.rows,
        "tokens": batch.tokens,
        "attempt": batch.attempt,
        "sent_ago_us": batch.sent_ago.as_ref().map(micros),
        "running_for_us": batch.running_for.as_ref().map(micros),
        "expected_us": batch.expected_time.as_ref().map(micros),
        "probe": batch.probe,
        "hedge": batch.hedge,
        "apart": batch.apart,
    })
}

fn call(call: &WaitingCall) -> Value {
    json!({
        "model": call.model,
        "tenant": call.tenant,
        "class": call.class,
        "trace_id": call.trace_id,
        "waited_us": call.waited.as_ref().map(micros),
        "waits_us": call.waits.as_ref().map(waits),
        "position": call.position,
        "late": call.late,
        "rows": call.rows,
        "open_rows": call.open_rows,
        "waits_for": reason(call.waits_for()),
        "deadline_in_us": call.deadline_in.as_ref().map(micros),
        "text": call.text,
    })
}

fn waits(waits: &Waits) -> Value {
    json!({
        "no_worker": waits.no_worker.as_ref().map(micros),
        "loading": waits.loading.as_ref().map(micros),
        "workers_busy": waits.workers_busy.as_ref().map(micros),
        "suspect_worker": waits.suspect_worker.as_ref().map(micros),
        "fuller_batch": waits.fuller_batch.as_ref().map(micros),
        "failed_attempts": waits.failed_attempts.as_ref().map(micros),
    })
}

/// As metrics name it.
fn reason(reason: WaitReason) -> Option<&'static str> {
    match reason {
        WaitReason::Unspecified => None,
        WaitReason::NoWorker => Some("no_worker"),
        WaitReason::Loading => Some("loading"),
        WaitReason::WorkersBusy => Some("workers_busy"),
        WaitReason::SuspectWorker => Some("suspect_worker"),
        WaitReason::FullerBatch => Some("fuller_batch"),
    }
}

fn counts(counts: &[ReasonCount]) -> Value {
    counts.iter().map(|count| (count.reason.clone(), json!(count.count))).collect::<serde_json::Map<_, _>>().into()
}

fn nanos(duration: &prost_types::Duration) -> f64 {
    duration.seconds as f64 * 1e9 + f64::from(duration.nanos)
}

fn to_micros(nanos: f64) -> f64 {
    nanos / 1e3
}
