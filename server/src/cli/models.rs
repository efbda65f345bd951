//! `shoal models`: what there is to serve, fetched and checked.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::models::{Source, catalogue, check};
use crate::telemetry::{self, LogFormat};

use super::Outcome;

/// Arguments of `shoal models`.
#[derive(Args, Debug)]
pub struct ModelsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the catalogue, and what of it is on this machine.
    List,
    /// Fetch a model without serving it.
    Pull {
        /// A catalogue entry, or hf:org/name@revision.
        source: Source,
    },
    /// Say what is wrong with a model's files, if anything.
    Check {
        /// A catalogue entry, a folder, or hf:org/name@revision.
        source: Source,
    },
}

pub(super) fn run(args: ModelsArgs) -> Outcome {
    telemetry::init("info", LogFormat::Text).map_err(anyhow::Error::msg)?;
    let store = super::store(None)?;
    match args.verb {
        Verb::List => {
            let mut table = comfy_table::Table::new();
            table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
            table.set_header(["name", "model", "task", "parameters", "download", "licence", "on this machine"]);
            for entry in catalogue::all() {
                table.add_row([
                    entry.name.to_owned(),
                    entry.title.to_owned(),
                    entry.task.to_owned(),
                    format!("{:.1}M", entry.parameters as f64 / 1e6),
                    crate::models::megabytes(entry.size()),
                    entry.licence.to_owned(),
                    store.find(entry).map_or_else(|| "no".to_owned(), |folder| folder.display().to_string()),
                ]);
            }
            println!("{table}");
            println!("\nAlso served: a folder in Hugging Face layout, hf:org/name@revision, and the built-in echo and synthetic.");
        }
        Verb::Pull { source } => println!("{}", super::find(&store, &source)?.description),
        Verb::Check { source } => {
            let report = check::check(&source, &store);
            print!("{report}");
            if !report.is_sound() {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
