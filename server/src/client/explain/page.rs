//! An explanation as tables, and a sentence for each line of them.

use std::fmt::Write as _;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use prost_types::Duration as Wire;
use shoal_proto::v1::model::State;
use shoal_proto::v1::{ExplainResponse, ExplainedModel, ExplainedWorker, QueuedRows, WaitingCall};

use crate::client::ask::micros;

/// The whole page.
pub(super) fn page(answer: &ExplainResponse) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    if answer.draining {
        let _ = writeln!(page, "The server is shutting down and takes no new calls.\n");
    }
    let _ = writeln!(page, "{}\n", models(&answer.models));
    for model in &answer.models {
        let _ = writeln!(page, "  {}: {}", model.name, model.text);
    }
    if answer.workers.is_empty() {
        let _ = writeln!(page, "\nNo worker is connected that holds {} or loads it.", which(&answer.models));
    } else {
        let _ = writeln!(page, "\n{}\n", workers(&answer.workers));
        for worker in &answer.workers {
            let _ = writeln!(page, "  {}: {}", worker.name, worker.text);
        }
    }
    if answer.calls.is_empty() {
        let _ = match answer.open_calls {
            0 => writeln!(page, "\nNo call waits."),
            calls => writeln!(page, "\nNo call waits; {} without an answer.", open(calls)),
        };
        return page;
    }
    let _ = writeln!(page, "\n{}\n", calls(&answer.calls));
    for (number, call) in (1..).zip(&answer.calls) {
        let _ = writeln!(page, "  {number}: {}", call.text);
    }
    let _ = writeln!(page, "\n{} without an answer.", open(answer.open_calls));
    page
}

fn which(models: &[ExplainedModel]) -> String {
    match models {
        [model] => model.name.clone(),
        _ => "any model".to_owned(),
    }
}

fn open(calls: u64) -> String {
    match calls {
        1 => "1 call is".to_owned(),
        calls => format!("{calls} calls are"),
    }
}

fn models(models: &[ExplainedModel]) -> Table {
    let mut table = plain(["MODEL", "STATE", "OBJECTIVE", "WORKERS", "A BATCH TAKES", "QUEUED", "LATE", "OLDEST"]);
    for model in models {
        let state = match model.state() {
            State::Unspecified => "–",
            State::Unloaded => "unloaded",
            State::Loading => "loading",
            State::Ready => "ready",
            State::Failed => "failed",
        };
        let queued = model.queued.unwrap_or_default();
        table.add_row([
            model.name.clone(),
            state.to_owned(),
            brief(model.objective.as_ref()),
            model.workers.to_string(),
            model.cost.as_ref().map_or_else(|| "not known".to_owned(), |cost| cost.text.clone()),
            by_class(&queued),
            queued.late.to_string(),
            brief(model.oldest_age.as_ref()),
        ]);
    }
    table
}

/// `3 interactive, 5 bulk`; a lone number where all are standard.
fn by_class(queued: &QueuedRows) -> String {
    let QueuedRows { interactive, standard, bulk, .. } = *queued;
    if interactive == 0 && bulk == 0 {
        return standard.to_string();
    }
    let classes = [(interactive, "interactive"), (standard, "standard"), (bulk, "bulk")];
    let told = classes.iter().filter(|(count, _)| *count > 0).map(|(count, class)| format!("{count} {class}"));
    told.collect::<Vec<_>>().join(", ")
}

fn workers(workers: &[ExplainedWorker]) -> Table {
    let mut table = plain(["WORKER", "DEVICE", "HOLDS", "RUNS", "FREE IN"]);
    for worker in workers {
        let runs = match worker.running.first() {
            None => "nothing".to_owned(),
            Some(first) => format!("{} × {}", first.rows, first.model),
        };
        let holds = match (worker.ready.len(), worker.loading.len()) {
            (0, 0) => "no model".to_owned(),
            (1..=3, 0) => worker.ready.join(", "),
            (ready, 0) => format!("{ready} models"),
            (ready, loading) => format!("{ready}, loading {loading}"),
        };
        let free = match (worker.free_in.as_ref().map(micros), worker.running.is_empty()) {
            _ if worker.suspect => "suspect".to_owned(),
            (Some(0), false) => "overdue".to_owned(),
            (None, _) => "not known".to_owned(),
            _ => brief(worker.free_in.as_ref()),
        };
        table.add_row([worker.name.clone(), worker.device.clone(), holds, runs, free]);
    }
    table
}

fn calls(calls: &[WaitingCall]) -> Table {
    let mut table = plain(["CALL", "MODEL", "TENANT", "CLASS", "ROWS", "WAITED", "BEFORE IT", "DEADLINE", "TRACE"]);
    for (number, call) in (1..).zip(calls) {
        let or_none = |text: &str| if text.is_empty() { "–".to_owned() } else { text.to_owned() };
        table.add_row([
            number.to_string(),
            call.model.clone(),
            or_none(&call.tenant),
            call.class.clone(),
            if call.open_rows == call.rows {
                call.rows.to_string()
            } else {
                format!("{} of {}", call.open_rows, call.rows)
            },
            brief(call.waited.as_ref()),
            call.position.to_string(),
            brief(call.deadline_in.as_ref()),
            or_none(&call.trace_id),
        ]);
    }
    table
}

fn plain<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    table
}

fn brief(duration: Option<&Wire>) -> String {
    let Some(micros) = duration.map(micros) else { return "–".to_owned() };
    match micros {
        0 => "0 ms".to_owned(),
        1..100_000 => format!("{:.1} ms", micros as f64 / 1e3),
        100_000..1_000_000 => format!("{:.0} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}
