//! How models, workers and waiting calls stand at one moment.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use shoal_scheduler::{Class, LearnedCost, WaitCause};

use super::Waited;
use super::text::{Brief, Count, ascii, wait_words};
use crate::registry::ModelState;

/// How far back "recent" goes.
pub const RECENT: Duration = Duration::from_secs(60);

/// All of it, bounded.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By name.
    pub models: Vec<ModelStanding>,
    /// By name.
    pub workers: Vec<WorkerStanding>,
    /// The longest waiting first.
    pub calls: Vec<CallStanding>,
    /// Calls without an answer, of the models above.
    pub open_calls: u64,
}

/// A model.
#[derive(Clone, Debug)]
pub struct ModelStanding {
    pub name: Arc<str>,
    pub state: ModelState,
    pub objective: Duration,
    /// Workers that hold it.
    pub workers: u32,
    /// What its batches cost, if that is known.
    pub cost: Option<LearnedCost>,
    /// The same for a person.
    pub cost_text: String,
    pub queued: Queued,
    /// How long its oldest row has waited.
    pub oldest_age: Option<Duration>,
    /// Until the first row that can be on time is due.
    pub next_due_in: Option<Duration>,
    /// Nothing where nobody waits.
    pub waits_for: Option<WaitCause>,
    /// Until that is looked at again at the latest, where that is known.
    pub looks_again_in: Option<Duration>,
    /// Batches of late, and rows in them.
    pub recent_batches: u64,
    pub recent_rows: u64,
    /// By why they were closed, the most frequent first.
    pub closes: Vec<(&'static str, u64)>,
    /// Calls refused or ended without a result of late, the most frequent reason first.
    pub refusals: Vec<(&'static str, u64)>,
}

/// Rows of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// That can be on time, by class in the order of [`Class::ALL`].
    pub on_time: [u64; Class::ALL.len()],
    /// That cannot.
    pub late: u64,
    /// Of all these: in parts of batches that failed.
    pub apart: u64,
}

/// A worker.
#[derive(Clone, Debug)]
pub struct WorkerStanding {
    pub name: Arc<str>,
    pub device: String,
    pub credits: u32,
    /// Until it is expected to be through with what it has; nothing where nothing is known of what that takes.
    pub free_in: Option<Duration>,
    /// Until it may be tried again, if it is not trusted.
    pub suspect_for: Option<Duration>,
    /// Models that it holds, by name.
    pub ready: Vec<Arc<str>>,
    /// Models that it is loading, by name.
    pub loading: Vec<Arc<str>>,
    /// In order: it runs the first.
    pub running: Vec<Running>,
}

/// A batch with a worker.
#[derive(Clone, Debug)]
pub struct Running {
    /// Empty if it is gone.
    pub model: Arc<str>,
    pub rows: u32,
    pub tokens: u32,
    pub attempt: u16,
    pub sent_ago: Duration,
    pub running_for: Option<Duration>,
    pub expected: Option<Duration>,
    pub is_probe: bool,
    pub is_hedge: bool,
    pub is_apart: bool,
}

/// A call of which a row waits.
#[derive(Clone, Debug)]
pub struct CallStanding {
    pub model: Arc<str>,
    pub tenant: Arc<str>,
    pub class: Class,
    /// Empty without one.
    pub trace_id: String,
    pub waited: Waited,
    /// Rows before its first that waits.
    pub position: u64,
    /// That cannot be on time.
    pub is_late: bool,
    pub rows: u32,
    pub open_rows: u32,
    pub waits_for: WaitCause,
    pub deadline_in: Option<Duration>,
}

impl Queued {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.on_time.iter().sum::<u64>() + self.late
    }
}

impl ModelStanding {
    /// One to three sentences for a person.
    pub fn text(&self) -> String {
        let mut text = self.queue_text();
        if let ModelState::Failed(reason) = &self.state {
            let _ = write!(text, " It cannot be served: {}.", ascii(reason));
        }
        if self.recent_batches > 0 {
            let mean = self.recent_rows as f64 / self.recent_batches as f64;
            let batches = Count(self.recent_batches, "batch");
            let _ = write!(text, " In the last minute {batches} of {mean:.1} rows on average");
            if let Some((reason, _)) = self.closes.first() {
                let all = if self.closes.len() == 1 { "all" } else { "most" };
                let _ = write!(text, ", {all} closed as `{reason}`");
            }
            text.push('.');
        }
        if let [(reason, count), rest @ ..] = self.refusals.as_slice() {
            let all = count + rest.iter().map(|(_, count)| count).sum::<u64>();
            let most = if rest.is_empty() { "" } else { "most " };
            let _ = write!(text, " {} got no answer, {most}for `{reason}`.", Count(all, "call"));
        }
        text
    }

    fn queue_text(&self) -> String {
        let (Some(cause), Some(age)) = (self.waits_for, self.oldest_age) else {
            return match self.workers {
                0 => "Nothing waits, and no worker holds it.".to_owned(),
                _ => "Nothing waits.".to_owned(),
            };
        };
        let total = self.queued.total();
        let wait = if total == 1 { "waits" } else { "wait" };
        let mut text = format!("{} {wait} for {}", Count(total, "row"), wait_words(cause));
        let _ = write!(text, ", the oldest for {}", Brief(age));
        if let Some(until) = self.looks_again_in {
            let _ = write!(text, "; that ends in {} at the latest", Brief(until));
        }
        let objective = Brief(self.objective);
        let _ = match self.queued.late {
            0 => Ok(()),
            late if late == total && late > 1 => write!(text, "; none of them can meet the objective of {objective}"),
            late => write!(text, "; {late} cannot meet the objective of {objective}"),
        };
        if self.queued.apart > 0 {
            let _ = write!(text, "; {} run apart, because a batch failed", self.queued.apart);
        }
        text.push('.');
        text
    }
}

impl WorkerStanding {
    /// One or two sentences for a person.
    pub fn text(&self) -> String {
        let mut text = match self.running.first() {
            None if self.ready.is_empty() && self.loading.is_empty() => "Holds no model.".to_owned(),
            None if self.ready.is_empty() => format!("Is loading {}.", self.loading.join(", ")),
            None if self.credits == 0 => "Has nothing to do, and has not said yet that it can take more.".to_owned(),
            None => "Has nothing to do.".to_owned(),
            Some(first) => self.running_text(first),
        };
        if let Some(until) = self.suspect_for {
            text.push_str(" It is not trusted, since a batch of it was slow");
            match until {
                _ if !self.running.is_empty() => text.push_str("; it is tried again when that has ended."),
                Duration::ZERO => text.push_str("; it is tried again with the next batch."),
                until => {
                    let _ = write!(text, "; it is tried again in {}.", Brief(until));
                }
            }
        }
        text
    }

    fn running_text(&self, first: &Running) -> String {
        let what = match (first.is_probe, first.is_hedge, first.is_apart) {
            (true, ..) => ", to find out what batches cost",
            (_, true, _) => ", which another worker is slow with",
            (.., true) => ", apart because a batch failed",
            _ => "",
        };
        let model = if first.model.is_empty() { "a model that is gone" } else { &first.model };
        let since = Brief(first.running_for.unwrap_or(first.sent_ago));
        let mut text = format!("Has run {} of {model} for {since}{what}", Count(first.rows.into(), "row"));
        if let Some(expected) = first.expected {
            let _ = write!(text, ", {} expected", Brief(expected));
        }
        if let more @ 1.. = self.running.len() - 1 {
            let _ = write!(text, "; {} behind it", Count(more as u64, "batch"));
        }
        text.push('.');
        text
    }
}

impl CallStanding {
    /// The class as requests name it.
    pub fn class_name(&self) -> &'static str {
        match self.class {
            Class::Interactive => "interactive",
            Class::Standard => "standard",
            Class::Bulk => "bulk",
        }
    }

    /// A sentence for a person.
    pub fn text(&self) -> String {
        let waits = wait_words(self.waits_for);
        let mut text = match self.waited.total() {
            Duration::ZERO => format!("Has just come and waits for {waits}"),
            _ => match self.waited.sentence("Has waited") {
                // It waits for what it has waited for all the time.
                text if !text.contains(':') && text.ends_with(waits) => text,
                text => format!("{text}, and now waits for {waits}"),
            },
        };
        if self.is_late {
            text.push_str("; it cannot meet the objective and stands behind those that can");
        }
        let _ = match self.position {
            0 => write!(text, "; it is next"),
            before => write!(text, "; {} before it", Count(before, "row")),
        };
        if let Some(deadline) = self.deadline_in {
            let _ = write!(text, "; its deadline is {} away", Brief(deadline));
        }
        text.push('.');
        text
    }
}
