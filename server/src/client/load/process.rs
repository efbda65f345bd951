//! How calls of an open loop are spread over time, with all that this takes.

use std::fmt;

use serde::Serialize;

use super::LoadError;
use super::modulated::Modulation;
use super::options::{Arrivals, LoadOptions, OptionsError};
use super::trace::Trace;

/// An arrival process; [`Arrivals`] is its name alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "arrivals", rename_all = "kebab-case")]
pub enum Process {
    Poisson,
    Constant,
    /// With this coefficient of variation of the gaps.
    Gamma {
        cv: f64,
    },
    Mmpp(Modulation),
    CodeLike(Modulation),
    Replay(Trace),
}

impl Process {
    /// As the flags say. Reads the trace, if there is one.
    pub(super) fn new(options: &LoadOptions) -> Result<Self, LoadError> {
        Ok(match options.arrivals {
            Arrivals::Poisson => Self::Poisson,
            Arrivals::Constant => Self::Constant,
            Arrivals::Gamma => Self::Gamma { cv: options.cv.unwrap_or(LoadOptions::CV) },
            Arrivals::Mmpp => Self::Mmpp(Modulation::BURSTS),
            Arrivals::CodeLike => Self::CodeLike(Modulation::CODE),
            Arrivals::Replay => Self::Replay(Self::trace(options)?),
        })
    }

    /// The trace of the flags.
    pub(super) fn trace(options: &LoadOptions) -> Result<Trace, LoadError> {
        let expected = "given with `--arrivals replay`";
        let file = options.trace.as_deref().ok_or(OptionsError { option: "trace", expected })?;
        Ok(Trace::read(file, &options.trace_column)?)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poisson => f.write_str("poisson"),
            Self::Constant => f.write_str("constant"),
            Self::Gamma { cv } => write!(f, "gamma, cv {cv}"),
            Self::Mmpp(modulation) => write!(f, "mmpp, {}", Words(modulation)),
            Self::CodeLike(modulation) => write!(f, "code-like, {}", Words(modulation)),
            Self::Replay(trace) => write!(f, "replay of {trace}"),
        }
    }
}

struct Words<'a>(&'a Modulation);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Modulation { high_times, high_share, high_dwell_s, low_times, low_dwell_s } = self.0;
        let percent = high_share * 100.0;
        write!(f, "{high_times:.2} times the mean for {percent:.1} % of the time and {high_dwell_s:.1} s at once, ")?;
        write!(f, "{low_times:.2} times for {low_dwell_s:.1} s")
    }
}

#[cfg(test)]
mod tests {
    use super::{Modulation, Process};
    use crate::client::load::trace::Trace;

    #[test]
    fn says_its_name_and_its_parameters() {
        let trace = Trace::parse("t.csv", "seconds", "seconds,tokens\n1,5\n2,6\n3,7\n").unwrap();
        let processes = [
            (Process::Poisson, "poisson", serde_json::json!({"arrivals": "poisson"})),
            (Process::Constant, "constant", serde_json::json!({"arrivals": "constant"})),
            (Process::Gamma { cv: 4.0 }, "gamma, cv 4", serde_json::json!({"arrivals": "gamma", "cv": 4.0})),
            (
                Process::Replay(trace),
                "replay of t.csv, 3 calls in 2.0 s of its time",
                serde_json::json!({"arrivals": "replay", "trace": "t.csv", "trace_column": "seconds",
                    "trace_calls": 3, "trace_s": 2.0}),
            ),
        ];
        for (process, text, json) in processes {
            assert_eq!(process.to_string(), text);
            assert_eq!(serde_json::to_value(&process).unwrap(), json);
        }
        let bursts = Process::Mmpp(Modulation::BURSTS);
        assert_eq!(
            bursts.to_string(),
            "mmpp, 4.00 times the mean for 10.0 % of the time and 0.5 s at once, 0.67 times for 4.5 s"
        );
        let code = serde_json::to_value(Process::CodeLike(Modulation::CODE)).unwrap();
        assert_eq!((&code["arrivals"], &code["high_times"]), (&"code-like".into(), &4.77.into()));
        assert_eq!((&code["high_share"], &code["high_dwell_s"]), (&0.186.into(), &3.2.into()));
    }
}
