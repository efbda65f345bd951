//! How it went, as a table for people and JSON for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::clock::Window;
use super::mode::Load;
use super::options::{Api, LoadOptions};
use super::process::Process;
use super::tally::Tally;

/// The result of a run. Its JSON has these fields under these names; fields may be added, none is renamed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// As asked for; empty for the server's only model, and between commas where a trace asks for several.
    pub model: String,
    pub api: Api,
    pub load: Load,
    pub texts_per_call: u32,
    /// Tokens asked for in each text: as the flag was, `trace`, or `null` for texts that are not made to a length.
    pub lengths: Option<String>,
    /// As the server told: tokens of each answered call.
    pub tokens_per_call: Percentiles,
    pub connections: u32,
    /// Length of the measured time. With `--count`, or when a trace ends, it is until the last answer.
    pub seconds: f64,
    pub calls: Calls,
    pub rates: Rates,
    /// Of answered calls, from the intended moment of sending to the whole answer.
    pub latency_us: Percentiles,
    /// How many calls were within the objective; `null` without one.
    pub objective: Option<Objective>,
    /// How late calls were sent. If this is not small against the latency, the load generator was too slow.
    pub send_lag_us: Percentiles,
    /// As the server told: longest wait of a call's rows from admission to dispatch.
    pub queue_us: Percentiles,
    /// As the server told: longest compute time among a call's batches.
    pub compute_us: Percentiles,
    /// Rows in the mean batch, other clients' rows included; `null` where the server did not tell.
    pub batch_rows_mean: Option<f64>,
    /// By gRPC status, `OK` included.
    pub outcomes: BTreeMap<String, OutcomeReport>,
}

/// Measured calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Calls {
    pub sent: u64,
    pub ok: u64,
    pub failed: u64,
    /// Those of the failed ones that the server refused for load: RESOURCE_EXHAUSTED, as of a full queue or of what
    /// would be late.
    pub refused: u64,
    /// Wanted by the schedule but not sent, since too many calls were on their way.
    pub overflow: u64,
}

/// Per second of the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// What an open loop asked for.
    pub asked: Option<f64>,
    /// What was sent of it.
    pub sent: f64,
    /// Calls answered in the measured time.
    pub ok: f64,
    /// Texts, or rows, answered in it.
    pub texts: f64,
    /// Tokens answered in it.
    pub tokens: f64,
}

/// Calls held to an objective.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Objective {
    pub us: u64,
    /// Calls answered within it, from the intended moment of sending to the whole answer.
    pub on_time: u64,
    /// Their share of all measured calls, of which failed ones and overflow are not on time. 0 when there are none.
    pub share: f64,
}

/// A distribution, in microseconds where its name says so, with three significant digits. All zero when nothing was
/// counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p95: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p99_9: u64,
    pub max: u64,
}

/// Calls that ended with one status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutcomeReport {
    pub calls: u64,
    /// What the server said the first time; empty for `OK`.
    pub first_message: String,
}

impl Report {
    /// Of texts that were not made to a length.
    pub(super) fn new(options: &LoadOptions, load: Load, model: String, window: &Window, tally: &Tally) -> Self {
        let outcome = |(name, outcome): (&&str, &super::tally::Outcome)| {
            let report = OutcomeReport { calls: outcome.calls, first_message: outcome.first_message.clone() };
            ((*name).to_owned(), report)
        };
        let seconds = seconds(window, tally.last_done);
        let rate = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let (ok, refused) = (tally.ok(), tally.refused());
        let asked = load.rate();
        let objective = options.objective.map(|objective| Objective::new(objective, tally));
        Self {
            model,
            api: options.api,
            load,
            texts_per_call: options.texts_per_call,
            lengths: None,
            tokens_per_call: (&tally.tokens).into(),
            connections: options.connections,
            seconds,
            calls: Calls { sent: tally.sent, ok, failed: tally.sent - ok, refused, overflow: tally.overflow },
            rates: Rates {
                asked,
                sent: rate(tally.sent),
                ok: rate(tally.throughput.calls),
                texts: rate(tally.throughput.rows),
                tokens: rate(tally.throughput.tokens),
            },
            latency_us: (&tally.latency).into(),
            objective,
            send_lag_us: (&tally.lag).into(),
            queue_us: (&tally.queue).into(),
            compute_us: (&tally.compute).into(),
            batch_rows_mean: tally.batches.rows_mean(),
            outcomes: tally.outcomes.iter().map(outcome).collect(),
        }
    }

    /// The report as one line of JSON.
    pub fn to_json(&self) -> String {
        // Fails only for maps with keys that are no text, of which there are none.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The most frequent failure, in words.
    pub fn first_error(&self) -> Option<String> {
        let failures = self.outcomes.iter().filter(|(name, _)| name.as_str() != "OK");
        let (name, outcome) = failures.max_by_key(|(_, outcome)| outcome.calls)?;
        Some(format!("{name}: {}", outcome.first_message))
    }
}

impl Objective {
    fn new(objective: Duration, tally: &Tally) -> Self {
        let (us, on_time, of) = (super::tally::micros(objective), tally.on_time, tally.sent + tally.overflow);
        Self { us, on_time, share: if of > 0 { on_time as f64 / of as f64 } else { 0.0 } }
    }
}

/// Length of the measured time: as asked for if that ended it, else until the last answer.
fn seconds(window: &Window, last_done: Duration) -> f64 {
    let until_last = last_done.saturating_sub(window.warmup());
    match window.duration() {
        // With both a duration and a count, the one that came first ended it.
        Some(duration) if !window.ended_by_count() => duration,
        Some(duration) => until_last.min(duration),
        None => until_last,
    }
    .as_secs_f64()
}

impl From<&Histogram<u64>> for Percentiles {
    fn from(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            max: histogram.max(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, rates, .. } = self;
        match &self.load {
            Load::Open { rate, process, .. } => {
                // A trace's own rate has more digits than anyone asked for.
                let rate = if let Process::Replay(_) = process { (rate * 1e3).round() / 1e3 } else { *rate };
                writeln!(f, "open loop, {rate} calls/s asked ({process}), {:.1} s measured", self.seconds)?;
            }
            Load::Closed { concurrency } => {
                writeln!(f, "closed loop, {concurrency} callers, {:.1} s measured", self.seconds)?;
            }
        }
        writeln!(f)?;
        write!(f, "  calls       {} sent, {} ok, {} failed", calls.sent, calls.ok, calls.failed)?;
        writeln!(
            f,
            "{}",
            if calls.refused > 0 { format!(", {} of them refused for load", calls.refused) } else { String::new() }
        )?;
        if calls.overflow > 0 {
            writeln!(f, "  not sent    {} (more than --outstanding-max on their way)", calls.overflow)?;
        }
        write!(f, "  throughput  {:.1} calls/s, {:.1} texts/s", rates.ok, rates.texts)?;
        writeln!(f, "{}", if rates.tokens > 0.0 { format!(", {:.0} tokens/s", rates.tokens) } else { String::new() })?;
        if let Some(rows) = self.batch_rows_mean {
            writeln!(f, "  batches     {rows:.2} rows in the mean")?;
        }
        if let Some(lengths) = &self.lengths {
            let Percentiles { mean, p50, p99, max, .. } = self.tokens_per_call;
            write!(f, "  tokens      {lengths} asked of each text, ")?;
            writeln!(f, "{mean:.1} answered to the mean call, p50 {p50}, p99 {p99}, max {max}")?;
        }
        writeln!(f, "\n  ms             p50       p90       p95       p99     p99.9       max")?;
        let rows = [
            ("latency", &self.latency_us),
            ("queue", &self.queue_us),
            ("compute", &self.compute_us),
            ("send lag", &self.send_lag_us),
        ];
        for (name, percentiles) in rows {
            if percentiles.count > 0 {
                writeln!(f, "  {name:<9}{}", Row(percentiles))?;
            }
        }
        if let Some(Objective { us, on_time, share }) = self.objective {
            let (within, of) = (humantime::format_duration(Duration::from_micros(us)), calls.sent + calls.overflow);
            writeln!(f, "\n  on time   {:.2} % within {within}: {on_time} of {of} calls", share * 100.0)?;
        }
        for (name, outcome) in self.outcomes.iter().filter(|(name, _)| name.as_str() != "OK") {
            writeln!(f, "\n  {} calls ended with {name}, first: {}", outcome.calls, outcome.first_message)?;
        }
        Ok(())
    }
}

struct Row<'a>(&'a Percentiles);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Percentiles { p50, p90, p95, p99, p99_9, max, .. } = *self.0;
        [p50, p90, p95, p99, p99_9, max].into_iter().try_for_each(|us| write!(f, " {:>9.2}", us as f64 / 1e3))
    }
}

#[cfg(test)]
mod tests;
