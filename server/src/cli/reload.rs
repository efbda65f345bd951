//! The configuration file read again while it is served: on SIGHUP, and when it changes.
//!
//! All of a file is taken, or nothing of it. Models come, go and change what is asked of them; what else is stated there, but
//! for `log`, takes a restart and is said to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::config::{Config, ConfigError, ModelConfig, Settings, Workers};
use crate::driver::Handle;
use crate::metrics::Metrics;
use crate::models::{Dtype, ModelName, Source, Store};
use crate::telemetry::LogControl;

use super::files::model_settings;

/// How often the file is looked at. Kubernetes takes longer than that to bring a new one.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Reads the configuration again when it may be another.
#[derive(Debug)]
pub(super) struct Reloads {
    path: PathBuf,
    hang_up: Signal,
    /// Of what was in the file when it was read last; nothing if it could not be.
    seen: Option<[u8; 32]>,
    /// What the command line and the environment say.
    flags: Settings,
    /// What is served.
    config: Config,
    /// Of every model that was served since the start: workers may hold it, and calls may have it, for a while after it
    /// was taken out.
    known: BTreeMap<ModelName, (Source, Dtype)>,
    store: Store,
    log: LogControl,
}

/// What became of a file that may be taken.
enum Taken {
    Whole,
    /// It changed, or somebody asked again, while what it asks for was fetched.
    Overtaken,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("`models`: there is none, and a server without models is of no use")]
    NoModels,
    #[error(
        "`models.{model}.{key}`: what is served under a name stays what it is until the server is started anew; serve the \
         new one under another name, with `canary_of = \"{model}\"` to try it"
    )]
    Other { model: String, key: &'static str },
    #[error("`log`: {0}")]
    Log(String),
    #[error("{0:#}")]
    Files(anyhow::Error),
}

impl Reloads {
    /// For a server that was started with a file; none where it was not.
    pub(super) fn watch(
        flags: Settings,
        config: Config,
        store: Store,
        log: LogControl,
    ) -> std::io::Result<Option<Self>> {
        let Some(path) = flags.config.clone() else { return Ok(None) };
        let seen = hash(&path);
        let known = known(&config).collect();
        Ok(Some(Self { path, hang_up: signal(SignalKind::hangup())?, seen, flags, config, known, store, log }))
    }

    /// Takes what the file says each time it may be another, for as long as the server lives.
    pub(super) async fn run(mut self, driver: Handle, metrics: Metrics) {
        loop {
            self.changed().await;
            let taken = loop {
                match self.take(&driver).await {
                    Ok(Taken::Whole) => break true,
                    Ok(Taken::Overtaken) => info!("the configuration is another by now, and is read from the start"),
                    Err(refusal) => {
                        error!("the configuration stays as it was; {}: {refusal}", self.path.display());
                        break false;
                    }
                }
            };
            metrics.configured(taken);
        }
    }

    /// Returns when somebody asks, or the file is another.
    async fn changed(&mut self) {
        let mut last = None;
        loop {
            tokio::select! {
                _ = self.hang_up.recv() => {
                    self.seen = hash(&self.path);
                    return;
                }
                () = sleep(LOOK_EVERY) => {}
            }
            // One that is not there is being replaced, and one that changes from one look to the next is being written.
            let found = hash(&self.path);
            if found.is_some() && found != self.seen && found == last {
                self.seen = found;
                return;
            }
            last = found;
        }
    }

    async fn take(&mut self, driver: &Handle) -> Result<Taken, Refusal> {
        let config = Config::load(self.flags.clone())?;
        self.check(&config)?;
        // Pulling what is missing may take minutes; what is served is served on meanwhile, and who thinks better of it need
        // not wait for the end.
        let files = tokio::task::spawn_blocking({
            let (mut config, store) = (config.clone(), self.store.clone());
            config.workers = self.config.workers;
            move || model_settings(&config, &store)
        });
        let files = tokio::select! {
            files = files => files,
            () = self.changed() => return Ok(Taken::Overtaken),
        };
        let models = files.map_err(|panic| Refusal::Files(panic.into()))?.map_err(Refusal::Files)?;
        if config.log != self.config.log {
            self.log.set(&config.log).map_err(Refusal::Log)?;
        }
        driver.configure(models).await;
        let mut restart: Vec<_> =
            self.config.stated.differing(&config.stated).into_iter().filter(|key| *key != "log").collect();
        // Whoever takes a right away must not believe that it is gone.
        if config.access != self.config.access {
            restart.push("access");
        }
        if !restart.is_empty() {
            warn!("takes a restart: {}", restart.join(", "));
        }
        info!("{}", self.told(&config));
        self.known.extend(known(&config));
        // What takes a restart is told again each time, until it has one.
        let stated = Settings { log: config.stated.log, ..self.config.stated.clone() };
        (self.config.models, self.config.log, self.config.stated) = (config.models, config.log, stated);
        Ok(Taken::Whole)
    }

    /// Whether what is served can become that.
    fn check(&self, config: &Config) -> Result<(), Refusal> {
        if config.models.is_empty() {
            return Err(Refusal::NoModels);
        }
        for model in &config.models {
            let Some((source, dtype)) = self.known.get(&model.name) else { continue };
            let other = |key| Err(Refusal::Other { model: model.name.to_string(), key });
            // Workers elsewhere have sources of their own; what they serve may be another any time one of them starts.
            if *source != model.source && self.config.workers != Workers::External {
                return other("source");
            }
            if *dtype != model.dtype {
                return other("dtype");
            }
        }
        Ok(())
    }

    /// What became of the models.
    fn told(&self, config: &Config) -> String {
        let (before, after) = (&self.config.models, &config.models);
        let names = |of: &[ModelConfig], is_meant: &dyn Fn(&ModelConfig) -> bool| {
            let names: Vec<&str> = of.iter().filter(|model| is_meant(model)).map(|model| model.name.as_str()).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let is_in = |all: &[ModelConfig], model: &ModelConfig| all.iter().any(|other| other.name == model.name);
        let is_changed = |model: &ModelConfig| is_in(before, model) && !before.contains(model);
        format!(
            "configuration read again; models added: {}; changed: {}; removed: {}",
            names(after, &|model| !is_in(before, model)),
            names(after, &is_changed),
            names(before, &|model| !is_in(after, model)),
        )
    }
}

/// What each model is.
fn known(config: &Config) -> impl Iterator<Item = (ModelName, (Source, Dtype))> + '_ {
    config.models.iter().map(|model| (model.name.clone(), (model.source.clone(), model.dtype)))
}

fn hash(path: &Path) -> Option<[u8; 32]> {
    std::fs::read(path).ok().map(|bytes| Sha256::digest(bytes).into())
}
