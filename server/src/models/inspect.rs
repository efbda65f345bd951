//! What must know how models are built to be answered. That is the worker's, which this crate does not name: `main` hands
//! over its functions.

use std::path::Path;

/// The worker's functions on a model's folder. Both block.
#[derive(Clone, Copy, Debug)]
pub struct Inspect {
    /// Reads settings and weights as if the model were to run.
    pub check: fn(&Path) -> Inspection,
    /// The ops a model's settings come to, for inputs of so many tokens; in case of error one line that says why there
    /// are none.
    pub plan: fn(&Path, usize) -> Result<String, String>,
}

/// What a model is, and what keeps it from running.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// One line each.
    pub facts: Vec<String>,
    /// One line each, with the path of the file.
    pub problems: Vec<String>,
    /// Token ids are below it; none where the settings could not be read.
    pub vocabulary: Option<usize>,
}
