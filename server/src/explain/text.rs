//! The same in sentences. All of it is ASCII, so that it fits into a header.

use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use shoal_scheduler::{CloseReason, WaitCause};

use super::{Explanation, Found, Ran, Refusal, Waited};
use crate::call::{Answer, BatchUse};

/// Batches of one call that are told one by one.
const BATCHES_TOLD_MAX: usize = 3;
/// Parts of a wait that are not worth a word beside others.
const WORTH_A_WORD: Duration = Duration::from_micros(10);

/// A duration as people read it, with three digits or so.
pub(super) struct Brief(pub(super) Duration);

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1e3;
        match millis {
            0.0 => f.write_str("0 ms"),
            ..0.01 => f.write_str("less than 0.01 ms"),
            ..0.995 => write!(f, "{millis:.2} ms"),
            ..99.95 => write!(f, "{millis:.1} ms"),
            ..999.5 => write!(f, "{millis:.0} ms"),
            ..99_950.0 => write!(f, "{:.1} s", millis / 1e3),
            _ => write!(f, "{:.0} s", millis / 1e3),
        }
    }
}

/// `1 row`, `2 rows`.
pub(super) struct Count(pub(super) u64, pub(super) &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, noun) = self;
        let plural = match (*count, *noun) {
            (1, _) => "",
            (_, noun) if noun.ends_with("ch") => "es",
            _ => "s",
        };
        write!(f, "{count} {noun}{plural}")
    }
}

/// What is waited for, after "for".
pub(super) fn wait_words(cause: WaitCause) -> &'static str {
    match cause {
        WaitCause::NoWorker => "a worker to connect",
        WaitCause::Loading => "the model to be loaded",
        WaitCause::WorkersBusy => "busy workers",
        WaitCause::SuspectWorker => "a worker that is trusted",
        WaitCause::FullerBatch => "a fuller batch",
    }
}

/// What is not ASCII, or controls something, as `?`.
pub(super) fn ascii(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

impl Waited {
    /// `9.1 ms for busy workers, 3.3 ms for a fuller batch`; the cause alone, where there is one.
    fn parts(&self) -> String {
        let mut parts: Vec<(Duration, &'static str)> =
            WaitCause::ALL.into_iter().map(|cause| (self.waits.of(cause), wait_words(cause))).collect();
        parts.retain(|(time, _)| *time >= WORTH_A_WORD);
        let mut told: Vec<String> = match parts.as_slice() {
            [(_, only)] if self.failed < WORTH_A_WORD => return format!("for {only}"),
            [] if self.failed >= WORTH_A_WORD => return "with a worker that gave no result".to_owned(),
            parts => parts.iter().map(|(time, words)| format!("{} for {words}", Brief(*time))).collect(),
        };
        if self.failed >= WORTH_A_WORD {
            told.push(format!("{} with a worker that gave no result", Brief(self.failed)));
        }
        told.join(", ")
    }

    /// Of somebody who waited, or still waits.
    pub(super) fn sentence(&self, verb: &str) -> String {
        let (total, parts) = (self.total(), self.parts());
        if parts.is_empty() {
            return format!("{verb} {}", Brief(total));
        }
        // Parts of several begin with how long each took.
        let colon = if parts.starts_with(|c: char| c.is_ascii_digit()) { ":" } else { "" };
        format!("{verb} {}{colon} {parts}", Brief(total))
    }
}

impl Explanation {
    /// One to three sentences for a person, about the answer it belongs to.
    pub fn text(&self, answer: &Answer) -> String {
        let mut text = match self.waited.total() {
            total if total < WORTH_A_WORD => "Did not wait".to_owned(),
            _ => self.waited.sentence("Waited"),
        };
        if self.late_rows > 0 {
            let rows = Count(self.late_rows.into(), "row");
            let objective = Brief(self.objective);
            let _ = write!(text, "; {rows} could not meet the objective of {objective} and went behind others");
        }
        text.push('.');
        let told = answer.batches.iter().zip(&self.batches).take(BATCHES_TOLD_MAX);
        for (batch, ran) in told {
            let _ = write!(text, " {}", self.batch(batch, ran));
        }
        if let more @ 1.. = answer.batches.len().saturating_sub(BATCHES_TOLD_MAX) {
            let _ = write!(text, " {} more ran as well.", Count(more as u64, "batch"));
        }
        text
    }

    fn batch(&self, batch: &BatchUse, ran: &Ran) -> String {
        if batch.compute_time.is_zero() {
            return format!("Was with {} for {}, which did not finish it.", ascii(&ran.worker), Brief(ran.taken));
        }
        let others = u64::from(batch.rows.saturating_sub(batch.own_rows));
        let mut text = match others {
            0 => format!("Ran without rows of other calls on {}", ascii(&ran.worker)),
            _ => format!("Ran with {} of other calls on {}", Count(others, "row"), ascii(&ran.worker)),
        };
        let _ = write!(text, " for {}", Brief(batch.compute_time));
        if let Some(expected) = ran.expected {
            let _ = write!(text, " ({} from when it was sent, {} expected)", Brief(ran.taken), Brief(expected));
        }
        if batch.attempt > 1 {
            let _ = write!(text, ", as attempt {}", batch.attempt);
        }
        let _ = write!(text, ", closed because {}.", self.close_words(batch.close));
        text
    }

    fn close_words(&self, close: CloseReason) -> String {
        match close {
            CloseReason::Drained => "it had all that was queued",
            CloseReason::Rows => "it was full by its limit of rows",
            CloseReason::Tokens => "it was full by its limit of tokens",
            CloseReason::Bytes => "it was full by its limit of bytes",
            CloseReason::Preferred => "it had reached a preferred size",
            CloseReason::Delay => "its rows had waited as long as that pays",
            CloseReason::Objective => {
                let objective = Brief(self.objective);
                return format!("one more row would have taken longer than the objective of {objective} allows");
            }
            CloseReason::Spread => "what was left went to other workers, which were idle",
            CloseReason::Late => "it was the late rows' turn",
            CloseReason::Hedged => "it repeats a batch that was slow on another worker",
            CloseReason::Isolated => "a batch with these rows had failed, and they run apart",
        }
        .to_owned()
    }
}

impl Refusal {
    /// One or two sentences for a person.
    pub fn text(&self) -> String {
        let mut text = match &self.waited {
            _ if self.on_arrival => "Refused on arrival".to_owned(),
            None => "Ended after it had been let in".to_owned(),
            Some(waited) if waited.total() < WORTH_A_WORD => "Ended at once".to_owned(),
            Some(waited) => waited.sentence("Ended after it had waited"),
        };
        if let Some(found) = &self.found {
            let _ = write!(text, "{} {}", if self.on_arrival { ":" } else { "." }, self.found_words(found));
        }
        if let Some(deadline) = self.deadline_in.filter(|time| !time.is_zero()) {
            let _ = write!(text, ", and the deadline was {} away", Brief(deadline));
        }
        text.push('.');
        text
    }

    fn found_words(&self, found: &Found) -> String {
        let model = &self.model;
        let mut parts = Vec::new();
        parts.push(match found.queued {
            0 => format!("nothing is queued for {model}"),
            1 => format!("1 row is queued for {model}"),
            queued => format!("{queued} rows are queued for {model}"),
        });
        let mut workers = match (found.workers, found.are_busy) {
            (0, _) if found.because == WaitCause::Loading => "no worker holds it yet, one is loading it".to_owned(),
            (0, _) => "no worker holds it".to_owned(),
            (1, true) => "its worker is busy".to_owned(),
            (workers, true) => format!("all {workers} workers that hold it are busy"),
            (1, false) => "its worker is free".to_owned(),
            (workers, false) => format!("a worker is free of {workers} that hold it"),
        };
        if let Some(time) = found.free_in.filter(|_| found.workers > 0 && found.are_busy) {
            let _ = write!(workers, " for about {}", Brief(time));
            if found.workers > 1 {
                workers.push_str(" at least");
            }
        }
        parts.push(workers);
        parts.extend(found.alone.map(|time| format!("one such row takes about {} by itself", Brief(time))));
        let text = parts.join(", ");
        // It may stand by itself.
        if self.on_arrival { text } else { text[..1].to_uppercase() + &text[1..] }
    }
}
