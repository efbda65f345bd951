//! What happened, one line per event, and a number that stands for all of it.

use std::fmt;

use shoal_scheduler::{Counts, Epoch, Input, Output, RequestId, Timestamp, WorkerId};

use crate::fnv::Fnv;
use crate::workload::Nature;

/// One event of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The driver's clock, which may go backwards.
    pub at: Timestamp,
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The core was told this.
    Told(Input),
    /// The core asked for this.
    Did(Output),
    /// The core has no more to say about the last input.
    Settled,
    /// What is wrong with a request. The core is not told.
    Nature { request: RequestId, nature: Nature },
    /// Something befell a worker that may make it fail a batch that has nothing wrong. The core is not told.
    Struck { worker: WorkerId, epoch: Epoch },
    /// Nothing more is going to happen.
    Finished(Counts),
}

/// Everything that happened in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript(pub Vec<Entry>);

impl Transcript {
    /// FNV-1a of the text. Equal for equal runs, on every machine.
    pub fn hash(&self) -> u64 {
        let mut hash = Fnv::new();
        // Writing into a hash cannot fail.
        let _ = fmt::Write::write_fmt(&mut hash, format_args!("{self}"));
        hash.finish()
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|entry| writeln!(f, "{entry}"))
    }
}

impl fmt::Display for Entry {
    /// `milliseconds sign event`; `>` is told to the core, `<` comes from it, `*` is neither.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.at.as_nanos() / 1_000;
        write!(f, "{:>7}.{:03} ", micros / 1_000, micros % 1_000)?;
        match &self.what {
            What::Told(input) => write!(f, "> {input:?}"),
            What::Did(output) => write!(f, "< {output:?}"),
            What::Settled => write!(f, "."),
            What::Nature { request, nature } => write!(f, "* request {request} is {nature:?}"),
            What::Struck { worker, epoch } => write!(f, "* worker {worker} is struck in epoch {epoch}"),
            What::Finished(counts) => write!(f, "* finished with {counts:?}"),
        }
    }
}
