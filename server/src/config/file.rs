//! Reading the configuration file, with errors that name the key and the nearest one there is.

use std::path::Path;

use toml::{Table, Value};

use crate::models::ModelName;

use super::access::AccessFile;
use super::error::{BYTES_MAX, ConfigError};
use super::model::{ModelConfig, ModelFile};
use super::settings::Settings;

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) settings: Settings,
    pub(super) models: Vec<ModelConfig>,
    pub(super) access: Vec<AccessFile>,
}

/// The file's settings, models and entries of access.
pub(super) fn read(path: &Path) -> Result<File, ConfigError> {
    let unread = |error| ConfigError::Read { path: path.to_owned(), error };
    let bytes = std::fs::metadata(path).map_err(unread)?.len();
    if bytes > BYTES_MAX {
        return Err(ConfigError::TooLong { path: path.to_owned(), bytes });
    }
    let text = std::fs::read_to_string(path).map_err(unread)?;
    parse(&text, path)
}

/// As [`read`], from the text of the file.
pub(super) fn parse(text: &str, path: &Path) -> Result<File, ConfigError> {
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        ConfigError::Syntax { path: path.to_owned(), line, problem: error.message().replace('\n', ", ") }
    })?;
    let models = match table.remove("models") {
        None => Table::new(),
        Some(Value::Table(models)) => models,
        Some(other) => {
            let problem = format!("must be a table, [models.NAME], and is {}", other.type_str());
            return Err(ConfigError::Value { key: "models".into(), problem });
        }
    };
    let access = match table.remove("access") {
        None => Vec::new(),
        Some(Value::Array(entries)) => entries,
        Some(other) => {
            let problem = format!("must be tables, [[access]], and is {}", other.type_str());
            return Err(ConfigError::Value { key: "access".into(), problem });
        }
    };
    let known = || Settings::KEYS.iter().copied().chain(["models", "access"]);
    check_keys("", &table, known)?;
    let settings = settings(&table)?;
    let models = models.into_iter().map(|(name, value)| model(&name, value)).collect::<Result<_, _>>()?;
    let access = access.into_iter().enumerate().map(|(index, value)| entry(index, value)).collect::<Result<_, _>>()?;
    Ok(File { settings, models, access })
}

fn entry(index: usize, value: Value) -> Result<AccessFile, ConfigError> {
    let Value::Table(table) = value else {
        let problem = format!("must be a table and is {}", value.type_str());
        return Err(ConfigError::Value { key: format!("access[{index}]"), problem });
    };
    // By its name, where it has one.
    let prefix = match table.get("name") {
        Some(Value::String(name)) => format!("access.{name}."),
        _ => format!("access[{index}]."),
    };
    check_keys(&prefix, &table, || AccessFile::KEYS.iter().copied())?;
    typed(&prefix, &table)
}

fn model(name: &str, value: Value) -> Result<ModelConfig, ConfigError> {
    let key = format!("models.{name}");
    let wrong = |problem: String| ConfigError::Value { key: key.clone(), problem };
    let parsed: ModelName = name.parse().map_err(|error: crate::models::NameError| wrong(error.to_string()))?;
    let Value::Table(table) = value else {
        return Err(wrong(format!("must be a table and is {}", value.type_str())));
    };
    check_keys(&format!("{key}."), &table, || ModelFile::KEYS.iter().copied())?;
    let file: ModelFile = typed(&format!("{key}."), &table)?;
    file.check(parsed)
}

fn settings(table: &Table) -> Result<Settings, ConfigError> {
    typed("", table)
}

/// Reads each key apart first, so that an error names it.
fn typed<T: serde::de::DeserializeOwned>(prefix: &str, table: &Table) -> Result<T, ConfigError> {
    for (key, value) in table {
        let alone = Table::from_iter([(key.clone(), value.clone())]);
        if let Err(error) = alone.try_into::<T>() {
            let problem = error.message().to_owned();
            return Err(ConfigError::Value { key: format!("{prefix}{key}"), problem });
        }
    }
    let whole = table.clone().try_into::<T>();
    whole.map_err(|error| ConfigError::Value { key: prefix.to_owned(), problem: error.message().to_owned() })
}

fn check_keys<'a, I: Iterator<Item = &'a str>>(
    prefix: &str,
    table: &Table,
    known: impl Fn() -> I,
) -> Result<(), ConfigError> {
    for key in table.keys() {
        if !known().any(|name| name == key) {
            let near = known().min_by_key(|name| strsim::damerau_levenshtein(name, key)).unwrap_or_default();
            return Err(ConfigError::UnknownKey { key: format!("{prefix}{key}"), near: format!("{prefix}{near}") });
        }
    }
    Ok(())
}
