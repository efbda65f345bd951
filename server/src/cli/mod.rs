//! The command line: what a user types, and what each verb does.

mod banner;
mod demo;
mod devices;
mod files;
mod plan;
mod reload;
mod seats;
mod serve;
mod worker;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::client::{
    self, classify::ClassifyArgs, embed::EmbedArgs, explain::ExplainArgs, fill_mask::FillMaskArgs, load::LoadOptions,
    rerank::RerankArgs,
};
use crate::models::command::ModelsCommand;
use crate::models::{Inspect, ModelArg, OnProgress, Renderer, Resolved, Store, resolve};
use crate::telemetry::{self, LogFormat};

pub use devices::DevicesArgs;
pub use worker::{StandardInput, WorkerArgs};

/// Serves many small models from one address.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve models: the scheduler and, unless told otherwise, its local workers.
    Serve(serve::ServeArgs),
    /// Pull a small model, serve it, ask it for neighbours, and measure what batching buys.
    Demo(demo::DemoArgs),
    /// Ask a running server for embeddings.
    Embed(EmbedArgs),
    /// Ask a running server for the labels of texts.
    Classify(ClassifyArgs),
    /// Ask a running server for the texts that say most to a query.
    Rerank(RerankArgs),
    /// Ask a running server what could stand where texts have a mask.
    FillMask(FillMaskArgs),
    /// See what waits on a running server, what for, and what its workers do.
    Explain(ExplainArgs),
    /// Put load on a running server and report latency and throughput.
    Load(LoadOptions),
    /// Say how many workers the configured models need at given rates, and at which rates their objectives break.
    Plan(plan::PlanArgs),
    /// List, pull and check models, and see what they compute.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// List the GPUs that workers on this machine could compute on, and what is missing.
    Devices(DevicesArgs),
    /// Run models for a server. Local workers are started by the server itself.
    Worker(WorkerArgs),
}

/// How a verb ends: with an exit code, or an error for a person to read.
pub type Outcome = anyhow::Result<ExitCode>;

/// Runs every verb but `worker` and `devices`, which the binary starts itself. What must know how models are built asks
/// `inspect`.
pub fn run(command: Command, inspect: Inspect) -> Outcome {
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Embed(args) => {
            runtime()?.block_on(client::embed::run(&args, std::io::stdin().lock(), &mut std::io::stdout()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Classify(args) => {
            runtime()?.block_on(client::classify::run(&args, std::io::stdin().lock(), &mut std::io::stdout()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Rerank(args) => {
            runtime()?.block_on(client::rerank::run(&args, std::io::stdin().lock(), &mut std::io::stdout()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::FillMask(args) => {
            runtime()?.block_on(client::fill_mask::run(&args, std::io::stdin().lock(), &mut std::io::stdout()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Explain(args) => {
            let clears = std::io::stdout().is_terminal();
            let (mut out, mut problems) = (std::io::stdout(), std::io::stderr());
            runtime()?.block_on(client::explain::run(&args, clears, &mut out, &mut problems))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Load(options) => {
            runtime()?.block_on(client::load::command(&options, &mut std::io::stdout()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Plan(args) => plan::run(args),
        Command::Models(command) => {
            telemetry::init("info", LogFormat::Text).map_err(anyhow::Error::msg)?;
            command.run(&store(None)?, inspect, &mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Worker(_) | Command::Devices(_) => anyhow::bail!("what only the worker knows is asked by the binary"),
    }
}

/// An error with its causes, each said once: many an error's own words hold its cause's already.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut causes = error.chain().map(ToString::to_string);
    let first = causes.next().unwrap_or_default();
    causes.fold(first, |line, cause| if line.contains(&cause) { line } else { format!("{line}: {cause}") })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// The store of pulled models: at `home`, or where the environment says.
fn store(home: Option<&PathBuf>) -> anyhow::Result<Store> {
    use crate::models::PullSettings;
    Ok(match home {
        Some(home) => Store::new(home, PullSettings::from_env()),
        None => Store::from_env()?,
    })
}

/// Finds a model's files, pulling them with a progress bar if need be.
fn find(store: &Store, source: &crate::models::Source) -> anyhow::Result<Resolved> {
    let mut renderer = Renderer::new();
    let on: OnProgress<'_> = &mut |event| renderer.show(event);
    Ok(resolve(source, store, on)?)
}

/// The models of the variable `SHOAL_MODELS`, separated by spaces.
fn models_of_environment() -> anyhow::Result<Vec<ModelArg>> {
    let Ok(text) = std::env::var("SHOAL_MODELS") else { return Ok(Vec::new()) };
    let parse = |word: &str| word.parse().map_err(|error| anyhow::anyhow!("SHOAL_MODELS: {error}"));
    text.split_whitespace().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write: {source}")]
    struct Quoting {
        source: std::io::Error,
    }

    #[test]
    fn a_cause_is_said_once() {
        let quoting = || Quoting { source: std::io::Error::other("disk full") };
        let error = Err::<(), _>(quoting()).context("model `m`").expect_err("error");
        assert_eq!(one_line(&error), "model `m`: cannot write: disk full");
        assert_eq!(one_line(&anyhow::anyhow!("inner").context("outer")), "outer: inner");
    }
}
