//! Which loop drives the calls, and what it takes.

use std::num::NonZeroU64;

use serde::Serialize;

use super::LoadError;
use super::options::{Arrivals, LoadOptions, OptionsError};
use super::process::Process;
use super::schedule::Schedule;
use super::trace::Trace;

/// How calls are sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum Load {
    /// By the clock, `rate` calls a second in the mean.
    Open {
        rate: f64,
        #[serde(flatten)]
        process: Process,
        outstanding_max: u32,
        seed: u64,
    },
    /// By callers that wait for their answers.
    Closed { concurrency: u32 },
}

impl Load {
    /// As the flags say: open with a rate or a trace, which has one of its own.
    pub(super) fn new(options: &LoadOptions) -> Result<Self, LoadError> {
        let (rate, process) = match (options.rate, options.arrivals) {
            (Some(rate), _) => (rate, Process::new(options)?),
            (None, Arrivals::Replay) => {
                let trace = Process::trace(options)?;
                (trace.rate(), Process::Replay(trace))
            }
            (None, _) => return Ok(Self::Closed { concurrency: options.concurrency }),
        };
        Ok(Self::Open { rate, process, outstanding_max: options.outstanding_max, seed: options.seed })
    }

    /// What an open loop asks for.
    pub(super) fn rate(&self) -> Option<f64> {
        match self {
            Self::Open { rate, .. } => Some(*rate),
            Self::Closed { .. } => None,
        }
    }

    /// What is replayed, if anything is.
    pub(super) fn trace(&self) -> Option<&Trace> {
        match self {
            Self::Open { process: Process::Replay(trace), .. } => Some(trace),
            _ => None,
        }
    }

    /// How many calls are measured at most: as asked for, and no more than a trace has after the warm-up.
    pub(super) fn count(&self, options: &LoadOptions) -> Result<Option<NonZeroU64>, OptionsError> {
        let Self::Open { rate, process: process @ Process::Replay(_), seed, .. } = self else {
            return Ok(options.count);
        };
        let measured = Schedule::new(process, *rate, *seed).skip_while(|moment| *moment < options.warmup).count();
        let expected = "shorter than the trace";
        let measured = NonZeroU64::new(measured as u64).ok_or(OptionsError { option: "warmup", expected })?;
        Ok(Some(options.count.map_or(measured, |count| count.min(measured))))
    }
}
