//! Logs: where they go and how they look.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Changes what is logged while the server runs.
#[derive(Clone, Debug)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, tracing_subscriber::Registry>,
    level: LevelFilter,
}

impl LogControl {
    /// Controls a log that nobody hears.
    #[cfg(test)]
    pub(crate) fn unheard() -> Self {
        let (filter, handle) = reload::Layer::new(EnvFilter::new("off"));
        // The handle's other end, for as long as the process lives.
        std::mem::forget(filter);
        Self { filter: handle, level: LevelFilter::INFO }
    }

    /// Logs what `filter` lets through (`info`, `shoal_server=debug,warn`, …).
    ///
    /// # Errors
    /// What is wrong with the filter.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        self.filter.reload(filter).map_err(|error| error.to_string())
    }

    /// Logs every level down to this one, whatever the filter was.
    ///
    /// # Errors
    /// What the logging library says.
    pub fn set_level(&self, level: LevelFilter) -> Result<(), String> {
        self.set(&level.to_string())
    }

    /// The most talkative level the process was started with.
    pub fn level(&self) -> LevelFilter {
        self.level
    }
}

/// Sends logs to standard error from now on, for the whole process.
///
/// # Errors
/// What is wrong with the filter, or that logs were set up before.
pub fn init(filter: &str, format: LogFormat) -> Result<LogControl, String> {
    let parsed = EnvFilter::try_new(filter).map_err(|error| format!("`log` is not a filter: {error}"))?;
    let level = parsed.max_level_hint().unwrap_or(LevelFilter::TRACE);
    let (parsed, handle) = reload::Layer::new(parsed);
    let registry = tracing_subscriber::registry().with(parsed);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let done = match format {
        LogFormat::Text => {
            use std::io::IsTerminal as _;
            registry.with(layer.with_target(false).with_ansi(std::io::stderr().is_terminal())).try_init()
        }
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    done.map_err(|error| error.to_string())?;
    Ok(LogControl { filter: handle, level })
}
