//! `shoal devices`: the GPUs that workers on this machine could compute on, for people, and for `shoal serve`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;

use crate::gpus::Gpus;

use super::Outcome;

/// Arguments of `shoal devices`.
#[derive(Args, Clone, Copy, Debug)]
pub struct DevicesArgs {
    /// Print them as JSON, on one line.
    #[arg(long)]
    json: bool,
}

impl DevicesArgs {
    /// Prints what was found.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub fn show(self, gpus: &Gpus) -> Outcome {
        let page = if self.json { serde_json::to_string(gpus)? } else { gpus.table() };
        writeln!(std::io::stdout(), "{page}")?;
        Ok(ExitCode::SUCCESS)
    }
}
