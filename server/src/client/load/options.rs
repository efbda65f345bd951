//! What load to make, as flags.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use super::lengths::Lengths;
use crate::client::{Address, Credentials};

/// Call a running server at a stated pace and report latency, throughput and batching.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadOptions {
    /// Where the server listens.
    #[arg(long, value_name = "[https://]HOST:PORT", default_value = Address::DEFAULT, env = "SHOAL_ADDR")]
    pub addr: Address,
    #[command(flatten, next_help_heading = "A server with TLS, or that asks who calls")]
    pub credentials: Credentials,
    /// Which model; `--api embed` needs it only when the server has several.
    #[arg(long, default_value = "")]
    pub model: String,
    /// What to call. `embed` sends texts and reports tokens; `infer` speaks the Open Inference Protocol, which is also
    /// the way to `echo` and `synthetic` models.
    #[arg(long, value_enum, default_value_t = Api::Embed)]
    pub api: Api,
    /// Open loop: send so many calls a second, however slow the answers are. Latency then counts from the moment a call
    /// should have been sent, which is what users of a busy service feel.
    #[arg(long, value_name = "CALLS/S", conflicts_with = "concurrency")]
    pub rate: Option<f64>,
    /// How calls are spread over time in an open loop: `poisson` is like many independent users, `constant` is kinder
    /// to the server than any real traffic, and the others come in bursts, which is what most real traffic does.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    pub arrivals: Arrivals,
    /// Coefficient of variation of the gaps between calls, deviation over mean, for `--arrivals gamma`: 1 is as
    /// `poisson`, less is more even, more is burstier. 2 by default.
    #[arg(long)]
    pub cv: Option<f64>,
    /// The calls of `--arrivals replay`: CSV with a header, a column of times in seconds, and perhaps columns `tokens` and
    /// `model` that say how long the texts of each call are and what it is for. --rate squeezes or stretches it to that
    /// mean rate.
    #[arg(long, value_name = "FILE", conflicts_with = "concurrency")]
    pub trace: Option<PathBuf>,
    /// The trace's column of times.
    #[arg(long, value_name = "NAME", default_value = LoadOptions::TRACE_COLUMN)]
    pub trace_column: String,
    /// Closed loop: so many callers, each waiting for its answer before it asks again. More find the highest throughput
    /// and make every call wait longer.
    #[arg(long, default_value_t = 32)]
    pub concurrency: u32,
    /// Measure for this long. Longer runs tell more about rare slow calls: p99.9 wants at least 10,000 calls. 10s
    /// unless --count or --trace is given; a trace is played to its end at most.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// Stop after so many measured calls.
    #[arg(long)]
    pub count: Option<NonZeroU64>,
    /// Run this long before measuring, so that connections, caches and learned costs have settled. Of a trace, it is
    /// the beginning.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// Give each call this deadline. It is sent to the server, which does no work for a call that is over.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Say how many calls were answered within this time, counted as latency is. It changes nothing of what is sent.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub objective: Option<Duration>,
    /// HTTP/2 connections to spread calls over; one is enough for most, several avoid queueing in a single one.
    #[arg(long, default_value_t = 4)]
    pub connections: u32,
    /// Calls on their way at most in an open loop. What the schedule wants beyond is not sent but counted as overflow.
    #[arg(long, value_name = "CALLS", default_value_t = 4096)]
    pub outstanding_max: u32,
    /// A file of texts, one a line; without it, some three hundred English sentences.
    #[arg(long, value_name = "FILE")]
    pub texts: Option<PathBuf>,
    /// Instead, make texts of common English words, each of about so many tokens: a range as 8-256, whose lengths are
    /// all as likely, or a list as 16,128. What the server counted is in the report.
    #[arg(long, value_name = "TOKENS", conflicts_with = "texts")]
    pub lengths: Option<Lengths>,
    /// Texts (or rows) in each call: more cost less per text and make each call slower.
    #[arg(long, default_value_t = 1)]
    pub texts_per_call: u32,
    /// Numbers in each row of a model that takes FP32.
    #[arg(long, default_value_t = 16)]
    pub row_length: u32,
    /// Let the server cut texts that are too long for the model instead of failing the call.
    #[arg(long)]
    pub truncate: bool,
    /// The account the calls count on.
    #[arg(long)]
    pub tenant: Option<String>,
    /// How urgent the calls are: interactive, standard or bulk.
    #[arg(long)]
    pub class: Option<String>,
    /// Seed of all that is drawn: the moments of calls, and the lengths and words of texts that are made.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which service is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// `shoal.v1.Inference/Embed`.
    Embed,
    /// `inference.GRPCInferenceService/ModelInfer`.
    Infer,
}

/// How calls of an open loop are spread over time, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// Independent of each other: exponential gaps.
    Poisson,
    /// Equal gaps.
    Constant,
    /// Gaps of a Gamma distribution that vary as --cv says.
    Gamma,
    /// Bursts: four times the rate for a tenth of the time, half a second each.
    Mmpp,
    /// Shifts of load as in a trace of code completions (Azure, 2023): 4.77 times the rate for 3.2 s, 0.14 times for 14
    /// s.
    CodeLike,
    /// The calls of --trace.
    Replay,
}

impl LoadOptions {
    /// Measured when neither a duration nor a count is asked for.
    pub const DURATION: Duration = Duration::from_secs(10);
    /// How much gaps vary with `--arrivals gamma` when nothing else is asked for.
    pub const CV: f64 = 2.0;
    /// Where a trace has its times when nothing else is said.
    pub const TRACE_COLUMN: &str = "seconds";
    /// What `--api infer` needs of `--model`, unless a trace says it of each call.
    pub(super) const MODEL_EXPECTED: &str = "a name, since `--api infer` needs one";
    const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
    const RATE_MAX: f64 = 1e6;
    const CV_MAX: f64 = 100.0;
    const CONCURRENCY_MAX: u32 = 65_536;
    const CONNECTIONS_MAX: u32 = 1_024;
    const TEXTS_PER_CALL_MAX: u32 = 65_536;
    const ROW_LENGTH_MAX: u32 = 1 << 20;

    /// What the flags say by default, for a server at `addr`.
    pub fn new(addr: Address) -> Self {
        Self {
            addr,
            credentials: Credentials::default(),
            model: String::new(),
            api: Api::Embed,
            rate: None,
            arrivals: Arrivals::Poisson,
            cv: None,
            trace: None,
            trace_column: Self::TRACE_COLUMN.to_owned(),
            concurrency: 32,
            duration: None,
            count: None,
            warmup: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            objective: None,
            connections: 4,
            outstanding_max: 4096,
            texts: None,
            lengths: None,
            texts_per_call: 1,
            row_length: 16,
            truncate: false,
            tenant: None,
            class: None,
            seed: 0,
            json: false,
        }
    }

    /// How long is measured; `None` when only the count or a trace ends it.
    pub fn duration(&self) -> Option<Duration> {
        match (self.duration, self.count) {
            (None, None) if self.arrivals != Arrivals::Replay => Some(Self::DURATION),
            (duration, _) => duration,
        }
    }

    /// Whether every option is within its limits.
    pub(super) fn check(&self) -> Result<(), OptionsError> {
        let day = Duration::ZERO..=Self::DURATION_MAX;
        let rate = self.rate.unwrap_or(1.0);
        let wrong = [
            ("rate", "more than 0 and at most 1,000,000", rate > 0.0 && rate <= Self::RATE_MAX),
            ("concurrency", "1 to 65,536", (1..=Self::CONCURRENCY_MAX).contains(&self.concurrency)),
            ("outstanding-max", "1 to 65,536", (1..=Self::CONCURRENCY_MAX).contains(&self.outstanding_max)),
            ("connections", "1 to 1,024", (1..=Self::CONNECTIONS_MAX).contains(&self.connections)),
            ("texts-per-call", "1 to 65,536", (1..=Self::TEXTS_PER_CALL_MAX).contains(&self.texts_per_call)),
            ("row-length", "1 to 1,048,576", (1..=Self::ROW_LENGTH_MAX).contains(&self.row_length)),
            (
                "duration",
                "more than 0 and at most a day",
                self.duration.is_none_or(|d| !d.is_zero() && day.contains(&d)),
            ),
            ("warmup", "at most a day", day.contains(&self.warmup)),
            ("timeout", "more than 0 and at most a day", !self.timeout.is_zero() && day.contains(&self.timeout)),
            (
                "objective",
                "more than 0 and at most a day",
                self.objective.is_none_or(|d| !d.is_zero() && day.contains(&d)),
            ),
            ("model", Self::MODEL_EXPECTED, self.api == Api::Embed || !self.model.is_empty() || self.trace.is_some()),
        ];
        match wrong.into_iter().chain(self.of_arrivals()).find(|(_, _, right)| !right) {
            Some((option, expected, _)) => Err(OptionsError { option, expected }),
            None => Ok(()),
        }
    }

    /// What the arrivals want of other options: which, what, and whether it is so.
    fn of_arrivals(&self) -> [(&'static str, &'static str, bool); 3] {
        let is_bursty = matches!(self.arrivals, Arrivals::Gamma | Arrivals::Mmpp | Arrivals::CodeLike);
        let cv_fits = |cv| self.arrivals == Arrivals::Gamma && cv > 0.0 && cv <= Self::CV_MAX;
        [
            ("rate", "given, since such arrivals are of an open loop", self.rate.is_some() || !is_bursty),
            ("cv", "more than 0 and at most 100, and is for `--arrivals gamma`", self.cv.is_none_or(cv_fits)),
            (
                "trace",
                "given with `--arrivals replay`, and with no other",
                self.trace.is_some() == (self.arrivals == Arrivals::Replay),
            ),
        ]
    }
}

/// An option that is out of its limits.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("--{option} must be {expected}")]
pub struct OptionsError {
    /// The flag's name.
    pub option: &'static str,
    /// What it may be.
    pub expected: &'static str,
}
