//! `shoal models list|pull|check|plan`: what is known, what is here, whether it is sound, and what it computes.

use std::io::{self, Write};
use std::num::NonZeroUsize;

use comfy_table::Table;
use comfy_table::presets::NOTHING;

use super::catalogue;
use super::check::{self, FindError};
use super::inspect::Inspect;
use super::progress::{Renderer, megabytes};
use super::resolve::{ResolveError, resolve};
use super::source::Source;
use super::store::{HomeError, Store};

/// See which models are known, bring them here, check them, and see what they compute.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ModelsCommand {
    /// Show the catalogue, and what of it was pulled.
    List,
    /// Bring models into $SHOAL_HOME, so that serving them needs no network.
    Pull {
        /// Catalogue entries (`minilm`) or repositories (`hf:org/name@revision`). A commit as revision makes sure that
        /// every pull gives the same files; a branch is looked up once and then stays as it was.
        #[arg(required = true)]
        models: Vec<Source>,
    },
    /// Read a model's files, weights included, and say what is wrong with them, one line for each problem. Pulls nothing.
    Check {
        /// A folder (with a `/` in its path), a catalogue entry or a repository.
        #[arg(required = true)]
        models: Vec<Source>,
    },
    /// Show what a model computes: its ops with shapes, weights, FLOP and memory. Pulls nothing, and reads no weights.
    Plan {
        /// A folder (with a `/` in its path), a catalogue entry or a repository.
        model: Source,
        /// Tokens in each input; attention takes more per token the more there are. At most as many as the model takes.
        #[arg(long, value_name = "TOKENS", default_value = "128")]
        length: NonZeroUsize,
    },
}

impl ModelsCommand {
    /// Does it, writing to `out`. Blocks.
    pub fn run(&self, store: &Store, inspect: Inspect, out: &mut impl Write) -> Result<(), ModelsError> {
        match self {
            Self::List => list(store, out),
            Self::Pull { models } => models.iter().try_for_each(|source| pull(source, store, out)),
            Self::Check { models } => check(models, store, inspect, out),
            Self::Plan { model, length } => plan(model, length.get(), store, inspect, out),
        }
    }
}

fn list(store: &Store, out: &mut impl Write) -> Result<(), ModelsError> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["NAME", "PARAMETERS", "DIMS", "TOKENS", "SIZE", "LICENCE", "PULLED", "IS"]);
    for entry in catalogue::ENTRIES {
        table.add_row([
            entry.name.to_owned(),
            format!("{:.1} M", entry.parameters as f64 / 1e6),
            entry.dims.to_string(),
            entry.tokens_max.to_string(),
            megabytes(entry.size()),
            entry.licence.to_owned(),
            if store.find(entry).is_some() { "yes" } else { "no" }.to_owned(),
            format!("{}: {}", entry.title, entry.description),
        ]);
    }
    writeln!(out, "{}", table.trim_fmt())?;
    writeln!(out, "\nAlso a folder in Hugging Face layout, hf:org/name@revision, `echo` and `synthetic`.")?;
    writeln!(out, "Models are kept in {}.", store.home().display())?;
    Ok(())
}

fn pull(source: &Source, store: &Store, out: &mut impl Write) -> Result<(), ModelsError> {
    let mut renderer = Renderer::new();
    let resolved = resolve(source, store, &mut |event| renderer.show(event))?;
    writeln!(out, "{source}: {}", resolved.description)?;
    Ok(())
}

fn check(models: &[Source], store: &Store, inspect: Inspect, out: &mut impl Write) -> Result<(), ModelsError> {
    let mut problems = 0;
    for source in models {
        let check = check::check(source, store, inspect)?;
        write!(out, "{check}")?;
        problems += check.problems.len();
    }
    if problems == 0 { Ok(()) } else { Err(ModelsError::Problems { problems }) }
}

fn plan(
    source: &Source,
    length: usize,
    store: &Store,
    inspect: Inspect,
    out: &mut impl Write,
) -> Result<(), ModelsError> {
    let folder = check::find(source, store)?;
    let plan = (inspect.plan)(&folder, length).map_err(|reason| ModelsError::NoPlan { reason })?;
    writeln!(out, "{}", folder.display())?;
    out.write_all(plan.as_bytes())?;
    Ok(())
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Find(#[from] FindError),
    /// They were written already.
    #[error("problems found: {problems}")]
    Problems { problems: usize },
    #[error("no model that can run: {reason}")]
    NoPlan { reason: String },
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{FindError, ModelsCommand, ModelsError};
    use crate::models::{Inspect, Inspection, PullSettings, Store};

    /// A worker that finds nothing to say, and of a plan the length.
    const INSPECT: Inspect = Inspect {
        check: |_| Inspection::default(),
        plan: |folder, length| match folder.join("config.json").is_file() {
            true => Ok(format!("for {length} tokens\n")),
            false => Err("no config.json".to_owned()),
        },
    };

    #[derive(clap::Parser)]
    struct Cli {
        #[command(subcommand)]
        command: ModelsCommand,
    }

    fn run(arguments: &[&str]) -> (Result<(), ModelsError>, String) {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path(), PullSettings::default());
        let cli = Cli::try_parse_from([&["shoal"], arguments].concat()).unwrap();
        let mut out = Vec::new();
        (cli.command.run(&store, INSPECT, &mut out), String::from_utf8(out).unwrap())
    }

    #[test]
    fn lists_every_entry_and_whether_it_is_here() {
        let (result, out) = run(&["list"]);
        result.unwrap();
        let row = out.lines().find(|line| line.trim_start().starts_with("minilm")).unwrap();
        for word in ["22.7 M", "384", "256", "91.6 MB", "Apache-2.0", " no "] {
            assert!(row.contains(word), "{word}: {row}");
        }
    }

    #[test]
    fn a_check_that_finds_problems_fails_after_writing_them() {
        let folder = tempfile::tempdir().unwrap();
        let (result, out) = run(&["check", folder.path().to_str().unwrap()]);
        assert!(matches!(result, Err(ModelsError::Problems { problems: 3 })), "{result:?}");
        assert!(out.contains("problem: model.safetensors: expected a file, found none"), "{out}");
    }

    #[test]
    fn a_plan_is_of_a_folder_and_a_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let (result, out) = run(&["plan", path]);
        assert_eq!(
            (result.unwrap_err().to_string().as_str(), out.as_str()),
            ("no model that can run: no config.json", "")
        );
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        let shown = folder.path().canonicalize().unwrap();
        for (arguments, length) in [(&["plan", path][..], 128), (&["plan", path, "--length", "7"], 7)] {
            let (result, out) = run(arguments);
            result.unwrap();
            assert_eq!(out, format!("{}\nfor {length} tokens\n", shown.display()));
        }
        assert!(Cli::try_parse_from(["shoal", "plan", path, "--length", "0"]).is_err());
    }

    #[test]
    fn a_plan_pulls_nothing_and_says_how_to() {
        let (result, _) = run(&["plan", "minilm"]);
        let error = result.unwrap_err();
        assert!(matches!(&error, ModelsError::Find(FindError::NotPulled { .. })), "{error:?}");
        assert_eq!(error.to_string(), "`minilm` was not pulled yet; `shoal models pull minilm` does");
        assert!(run(&["plan", "echo"]).0.unwrap_err().to_string().contains("is built in"));
    }

    #[test]
    fn a_word_that_is_no_source_is_refused_with_the_nearest_one() {
        let error = Cli::try_parse_from(["shoal", "pull", "minlm"]).err().unwrap().to_string();
        assert!(error.contains("the nearest entry is `minilm`"), "{error}");
    }
}
