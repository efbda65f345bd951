//! `shoal plan`: how many workers, and until when they suffice.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::config::{Config, HumanDuration, Settings};
use crate::plan::{self, Named, Plan, Question, Rate, StatedCost, TOKENS, Tokens};
use crate::telemetry::{self, LogFormat};

use super::Outcome;

/// How the command ends when an objective cannot be kept on any number of workers.
const IMPOSSIBLE: u8 = 3;

/// Arguments of `shoal plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Rows (texts) a second that a model is asked for. May be given for every model; who is not named is not asked.
    #[arg(long = "rate", value_name = "MODEL=ROWS/S", help_heading = "What is asked")]
    rates: Vec<Named<Rate>>,
    /// Tokens of a model's mean row [default: 128]
    #[arg(long = "tokens", value_name = "MODEL=N", help_heading = "What is asked")]
    tokens: Vec<Named<Tokens>>,
    /// A TOML file of rates, for many models: lines `MODEL = ROWS/S` or `MODEL = { rate = ROWS/S, tokens = N }`.
    #[arg(long = "rates", value_name = "FILE", help_heading = "What is asked")]
    rates_file: Option<PathBuf>,
    /// Take rates and tokens from a running server: the page of its metrics, http://HOST:8002/metrics. What is said by
    /// --rates, --rate and --tokens goes over it.
    #[arg(long, value_name = "URL", help_heading = "What is asked")]
    from: Option<String>,
    /// How long that server is watched.
    #[arg(long, value_name = "TIME", default_value = "10s", requires = "from", help_heading = "What is asked")]
    over: HumanDuration,
    /// What batches of a model take, where nobody measured it or what was measured is to be put aside: a batch by itself,
    /// and more for each row and token, as in minilm=3ms,200us,20us.
    #[arg(long = "cost", value_name = "MODEL=BATCH,ROW,TOKEN", help_heading = "What is known")]
    costs: Vec<Named<StatedCost>>,
    /// Only what was learned on devices with this in their name. Without it there is an answer for each device.
    #[arg(long, value_name = "DEVICE", help_heading = "What is known")]
    on: Option<String>,
    /// Print the answers as JSON.
    #[arg(long)]
    json: bool,
    // As `serve` reads them, so that what is planned is what is served; `--workers` is for how many the answer is.
    #[command(flatten, next_help_heading = "The server, as `shoal serve` would be started")]
    settings: Settings,
}

pub(super) fn run(mut args: PlanArgs) -> Outcome {
    telemetry::init("warn", LogFormat::Text).map_err(anyhow::Error::msg)?;
    if args.settings.model.is_empty() {
        args.settings.model = super::models_of_environment()?;
    }
    let config = Config::load(args.settings)?;
    if config.models.is_empty() {
        anyhow::bail!("no model to plan for: name a configuration with --config, or models with --model");
    }
    let store = super::store(config.home.as_ref())?;
    if args.from.is_some() {
        eprintln!("watching for {}", humantime::format_duration(args.over.into()));
    }
    let question = Question {
        rates: args.rates,
        tokens: args.tokens,
        rates_file: args.rates_file,
        from: args.from.map(|url| (url, Duration::from(args.over))),
        costs: args.costs,
        on: args.on,
    };
    let plan = plan::plan(&config, &store, &question)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&plan)?)?;
    } else {
        write(&plan, &mut out)?;
    }
    let is_impossible = plan.answers.iter().any(|answer| answer.impossible().next().is_some());
    Ok(if is_impossible { ExitCode::from(IMPOSSIBLE) } else { ExitCode::SUCCESS })
}

fn write(plan: &Plan, out: &mut impl std::io::Write) -> std::io::Result<()> {
    for (at, answer) in plan.answers.iter().enumerate() {
        write!(out, "{}{answer}", if at > 0 { "\n" } else { "" })?;
    }
    if plan.answers.iter().any(|answer| answer.device.is_some() && answer.workers > 1) {
        writeln!(out, "\nEach worker is taken to have such a device to itself.")?;
    }
    if !plan.tokens_unsaid.is_empty() {
        writeln!(
            out,
            "\nRows of {}: taken for {TOKENS} tokens, as --tokens says nothing else.",
            plan.tokens_unsaid.join(", ")
        )?;
    }
    if !plan.unsaid.is_empty() {
        writeln!(out, "\nNo rate was given for {}: taken as not asked.", plan.unsaid.join(", "))?;
    }
    for (device, missing) in &plan.incomplete {
        writeln!(out, "\nNothing is said for {device}: there it is not known what {} costs.", missing.join(", "))?;
    }
    Ok(())
}
