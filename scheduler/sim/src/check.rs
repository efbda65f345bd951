//! What must be true of a run, one rule per checker. None of them sees the core: they read the transcript, with the
//! [`Ledger`] as it was just before each entry.

mod batches;
mod probes;
mod rules;
#[cfg(test)]
mod tests;

use std::fmt;

use shoal_scheduler::{Limits, Output};

use crate::reference::Ledger;
use crate::transcript::{Entry, Transcript, What};

/// One rule.
pub(crate) trait Check: fmt::Debug {
    /// What a violation is reported under.
    fn name(&self) -> &'static str;

    /// Looks at an entry, before the ledger has taken it down.
    fn see(&mut self, ledger: &Ledger, entry: &Entry) -> Result<(), String>;
}

/// A rule that a run broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub check: &'static str,
    /// How.
    pub how: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.how)
    }
}

/// Reads a run, entry by entry, and stops it at the first violation.
#[derive(Debug)]
pub struct Judge {
    ledger: Ledger,
    checks: Vec<Box<dyn Check>>,
}

impl Judge {
    pub fn new(limits: Limits) -> Self {
        let checks: Vec<Box<dyn Check>> = vec![
            Box::new(rules::Deadlines),
            Box::new(batches::Homogeneity::default()),
            Box::new(batches::Solitude),
            Box::new(batches::Order),
            Box::new(batches::CloseReasons),
            Box::new(batches::Patience::default()),
            Box::new(rules::Credits),
            Box::new(rules::Progress),
            Box::new(probes::Probes::default()),
            Box::new(rules::Innocence::default()),
            Box::new(rules::Models),
            Box::new(rules::Rest),
        ];
        Self { ledger: Ledger::new(limits), checks }
    }

    /// Reads one more entry.
    pub fn see(&mut self, entry: &Entry) -> Result<(), Violation> {
        for check in &mut self.checks {
            check.see(&self.ledger, entry).map_err(|how| Violation { check: check.name(), how })?;
        }
        let outcome = match &entry.what {
            What::Told(input) => {
                self.ledger.told(entry.at, input);
                Ok(())
            }
            What::Did(output) => self.ledger.did(output),
            What::Settled => self.ledger.settled(),
            What::Nature { .. } | What::Struck { .. } | What::Finished(_) => Ok(()),
        };
        outcome.map_err(|how| Violation { check: "outcomes", how })
    }

    /// Reads a whole run.
    pub fn read(limits: Limits, transcript: &Transcript) -> Result<(), Violation> {
        let mut judge = Self::new(limits);
        transcript.0.iter().try_for_each(|entry| judge.see(entry))
    }
}

/// The output, if the entry is one.
fn output(entry: &Entry) -> Option<&Output> {
    if let What::Did(output) = &entry.what { Some(output) } else { None }
}
