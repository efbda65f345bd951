//! `shoal plan`: how many workers the configured models need at given rates, and at which rates their objectives break.
//!
//! What models cost is taken from where servers keep it (`known`), what is asked of them from flags, a file or a running
//! server (`asked`, `scrape`), and the arithmetic is the core's ([`shoal_scheduler::plan`]). Nothing is served, pulled
//! or written here. All of it blocks.

mod answer;
mod asked;
mod known;
mod named;
mod page;
mod scrape;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

pub use answer::{Answer, Growth, ModelAnswer, Needed};
pub use asked::{AskedError, TOKENS};
pub use known::{Known, NoDevice, Origin};
pub use named::{Named, NamedError, Rate, StatedCost, Tokens, ValueError};
pub use scrape::ScrapeError;

use crate::config::{Config, ModelConfig, WORKER_BATCH_ROWS, WORKER_BATCH_TOKENS, Workers};
use crate::costs;
use crate::models::Store;
use answer::Given;
use asked::AskedOf;
use known::{OnDevice, Told};

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Rows a second.
    pub rates: Vec<Named<Rate>>,
    /// Tokens of the mean row.
    pub tokens: Vec<Named<Tokens>>,
    /// A file that says both.
    pub rates_file: Option<PathBuf>,
    /// A server whose page of metrics says both, and how long it is watched.
    pub from: Option<(String, Duration)>,
    /// What batches cost, over what is known.
    pub costs: Vec<Named<StatedCost>>,
    /// Part of the name of the device.
    pub on: Option<String>,
}

/// The answers, one for each kind of device, and what they leave out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    pub answers: Vec<Answer>,
    /// Models of whose rates nothing was said.
    pub unsaid: Vec<String>,
    /// Models that rows of [`TOKENS`] were taken for.
    pub tokens_unsaid: Vec<String>,
    /// Devices on which not all is known that is asked for, and what is not.
    pub incomplete: BTreeMap<String, Vec<String>>,
}

/// Answers a question about a configuration.
///
/// # Errors
/// What is missing or wrong, by flag and model.
pub fn plan(config: &Config, store: &Store, question: &Question) -> Result<Plan, PlanError> {
    let (asked, told) = gather(config, question)?;
    let kept = costs::all(store.home()).map_err(|error| PlanError::Costs { home: store.home().to_owned(), error })?;
    let devices = known::on_devices(config, store, &kept, &told, question.on.as_deref())?;
    let is_asked =
        |model: &ModelConfig| asked.get(model.name.as_str()).and_then(|asked| asked.rate).unwrap_or(0.0) > 0.0;
    let missing = |device: &OnDevice| -> Vec<String> {
        let asked = config.models.iter().filter(|model| is_asked(model));
        let unknown = asked.filter(|model| !device.known.contains_key(model.name.as_str()));
        unknown.map(|model| model.name.to_string()).collect()
    };
    let (complete, incomplete): (Vec<_>, Vec<_>) = devices.iter().partition(|device| missing(device).is_empty());
    if complete.is_empty() {
        // There is at least one device, or none was needed.
        let model = incomplete.first().and_then(|device| missing(device).into_iter().next()).unwrap_or_default();
        return Err(PlanError::NoCost { model, on: incomplete.first().and_then(|device| device.device.clone()) });
    }
    let workers = match config.workers {
        Workers::Local(count) if config.are_workers_stated => Some(count.get() as u64),
        Workers::Local(_) | Workers::External => None,
    };
    let answer = |device: &&OnDevice| Answer::new(device.device.clone(), &given(config, &asked, device), workers);
    let answers: Vec<Answer> = complete.iter().map(answer).collect();
    let takes_tokens = |name: &str| {
        let models = answers.iter().flat_map(|answer| &answer.models);
        models.filter(|model| model.name == name).any(|model| model.rate > 0.0 && model.tokens > 0.0)
    };
    let names = |of: &dyn Fn(&str, &asked::Asked) -> bool| -> Vec<String> {
        asked.iter().filter(|(model, asked)| of(model, asked)).map(|(model, _)| model.clone()).collect()
    };
    Ok(Plan {
        unsaid: names(&|_, asked| asked.rate.is_none()),
        tokens_unsaid: names(&|model, asked| asked.tokens.is_none() && takes_tokens(model)),
        answers,
        incomplete: incomplete.iter().filter_map(|device| Some((device.device.clone()?, missing(device)))).collect(),
    })
}

/// What is asked of the models, and what is said of their costs.
fn gather(config: &Config, question: &Question) -> Result<(AskedOf, Told), PlanError> {
    let mut asked = asked::nothing(config.models.iter().map(|model| &model.name));
    let mut told = Told::default();
    asked::once("--cost", &question.costs, &asked)?;
    if let Some(path) = &question.rates_file {
        asked::read(&mut asked, path)?;
    }
    asked::say(&mut asked, &question.rates, &question.tokens)?;
    // Last, when all that can be wrong was looked at: it takes a while.
    if let Some((url, over)) = &question.from {
        let seen = scrape::watch(url, *over)?;
        asked::see(&mut asked, &seen);
        told.server = seen.iter().filter_map(|(model, seen)| Some((model.clone(), seen.cost?))).collect();
    }
    if asked.values().all(|asked| asked.rate.is_none()) {
        let model = config.models.first().map_or_else(|| "MODEL".to_owned(), |model| model.name.to_string());
        return Err(PlanError::NoRates { model });
    }
    let stated = |Named { model, value }: &Named<StatedCost>| (model.to_string(), value.0);
    told.flags = question.costs.iter().map(stated).collect();
    Ok((asked, told))
}

/// The models whose costs are known on a device.
fn given(config: &Config, asked: &AskedOf, device: &OnDevice) -> Vec<Given> {
    let of = |model: &ModelConfig| {
        let name = model.name.as_str();
        let known = device.known.get(name)?.clone();
        let asked = asked.get(name).copied().unwrap_or_default();
        let has_tokens = known.cost.token_ps > 0 || known.cost.token_squared_fs > 0;
        let tokens = asked.tokens.unwrap_or(if has_tokens { TOKENS } else { 0.0 });
        let batch_rows_max = batch_rows_max(config, model, tokens);
        Some(Given {
            name: name.to_owned(),
            slo: model.slo,
            rate: asked.rate.unwrap_or(0.0),
            tokens,
            batch_rows_max,
            known,
        })
    };
    config.models.iter().filter_map(of).collect()
}

/// Rows of the largest batch that the model and a worker allow.
fn batch_rows_max(config: &Config, model: &ModelConfig, tokens: f64) -> u64 {
    let budget = config.worker_batch_tokens.unwrap_or(WORKER_BATCH_TOKENS).min(model.batch_tokens_max.get());
    let by_tokens = if tokens > 0.0 { f64::from(budget) / tokens } else { f64::INFINITY };
    let rows = model.batch_rows_max.get().min(WORKER_BATCH_ROWS);
    (f64::from(rows).min(by_tokens) as u64).max(1)
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Asked(#[from] AskedError),
    #[error(transparent)]
    Scrape(#[from] ScrapeError),
    #[error(transparent)]
    Device(#[from] NoDevice),
    #[error("what models were found to cost, in {}, cannot be read: {error}", home.display())]
    Costs { home: PathBuf, error: io::Error },
    #[error(
        "no rates: say how many rows a second a model is asked for, with --rate {model}=100, --rates FILE, or \
         --from http://HOST:8002/metrics"
    )]
    NoRates { model: String },
    #[error(
        "what `{model}` costs is not known{}: serve it once until the log says that it is calibrated, or say what a batch, a \
         row and a token take, as in --cost {model}=3ms,200us,20us", on.as_ref().map(|on| format!(" on {on}")).unwrap_or_default()
    )]
    NoCost { model: String, on: Option<String> },
}
