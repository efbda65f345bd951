//! What each model is going to be asked for: as flags say it, as a file says it, as a server saw it, the first of them
//! that says it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::{Table, Value};

use super::named::{Named, Rate, Tokens, ValueError};
use super::scrape::Seen;
use crate::models::{ModelName, nearest};

/// Tokens of the mean row, where nothing says it.
pub const TOKENS: f64 = 128.0;

/// What is asked of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Asked {
    /// Rows a second; none where nothing is said of it.
    pub(super) rate: Option<f64>,
    /// Tokens of the mean row.
    pub(super) tokens: Option<f64>,
}

/// By model: every model of the configuration has one.
pub(super) type AskedOf = BTreeMap<String, Asked>;

/// Nothing asked of these models.
pub(super) fn nothing<'a>(models: impl IntoIterator<Item = &'a ModelName>) -> AskedOf {
    models.into_iter().map(|model| (model.as_str().to_owned(), Asked::default())).collect()
}

/// As a running server saw it, where nothing else is said. Of models that are not planned for nothing is taken.
pub(super) fn see(asked: &mut AskedOf, seen: &BTreeMap<String, Seen>) {
    for (model, seen) in seen {
        if let Some(asked) = asked.get_mut(model) {
            *asked = Asked { rate: asked.rate.or(Some(seen.rate)), tokens: asked.tokens.or(seen.tokens) };
        }
    }
}

/// As a file says it: `MODEL = RATE`, or `MODEL = { rate = RATE, tokens = N }`.
///
/// # Errors
/// What is wrong, by file and model.
pub(super) fn read(asked: &mut AskedOf, path: &Path) -> Result<(), AskedError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| AskedError::File { path: path.to_owned(), problem: error.to_string() })?;
    parse(asked, &text).map_err(|(key, problem)| {
        let at = if key.is_empty() { String::new() } else { format!("`{key}`: ") };
        AskedError::File { path: path.to_owned(), problem: format!("{at}{problem}") }
    })
}

fn parse(asked: &mut AskedOf, text: &str) -> Result<(), (String, String)> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| (String::new(), error.message().to_owned()))?;
    for (model, value) in table {
        if !asked.contains_key(&model) {
            return Err((String::new(), unknown(&model, asked)));
        }
        let mut said = Asked::default();
        match value {
            Value::Table(keys) => {
                for (key, value) in keys {
                    let at = |problem| (format!("{model}.{key}"), problem);
                    match key.as_str() {
                        "rate" => said.rate = Some(number::<Rate>(&value).map_err(at)?.0),
                        "tokens" => said.tokens = Some(number::<Tokens>(&value).map_err(at)?.0),
                        _ => {
                            let near = nearest(&key, ["rate", "tokens"]);
                            return Err((model, format!("unknown key `{key}`; did you mean `{near}`?")));
                        }
                    }
                }
            }
            value => said.rate = Some(number::<Rate>(&value).map_err(|problem| (model.clone(), problem))?.0),
        }
        lay(asked, &model, said);
    }
    Ok(())
}

fn number<T: FromStr<Err = ValueError>>(value: &Value) -> Result<T, String> {
    let text = match value {
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        other => other.to_string(),
    };
    text.parse().map_err(|error: ValueError| error.to_string())
}

/// As flags say it.
///
/// # Errors
/// Which flag names a model that is not there, or one that was named before.
pub(super) fn say(asked: &mut AskedOf, rates: &[Named<Rate>], tokens: &[Named<Tokens>]) -> Result<(), AskedError> {
    once("--rate", rates, asked)?;
    once("--tokens", tokens, asked)?;
    for Named { model, value } in rates {
        lay(asked, model.as_str(), Asked { rate: Some(value.0), tokens: None });
    }
    for Named { model, value } in tokens {
        lay(asked, model.as_str(), Asked { rate: None, tokens: Some(value.0) });
    }
    Ok(())
}

/// Whether a flag names each model once, and only models that are there.
///
/// # Errors
/// When it does not.
pub(super) fn once<T>(flag: &'static str, named: &[Named<T>], asked: &AskedOf) -> Result<(), AskedError> {
    for (at, Named { model, .. }) in named.iter().enumerate() {
        if !asked.contains_key(model.as_str()) {
            return Err(AskedError::Unknown { flag, problem: unknown(model.as_str(), asked) });
        }
        if named[..at].iter().any(|before| before.model == *model) {
            return Err(AskedError::Twice { flag, model: model.clone() });
        }
    }
    Ok(())
}

fn lay(asked: &mut AskedOf, model: &str, said: Asked) {
    if let Some(asked) = asked.get_mut(model) {
        *asked = Asked { rate: said.rate.or(asked.rate), tokens: said.tokens.or(asked.tokens) };
    }
}

fn unknown(model: &str, asked: &AskedOf) -> String {
    let near = nearest(model, asked.keys().map(String::as_str));
    format!("no model is called `{model}`; did you mean `{near}`?")
}

/// Why it is not known what models are asked for.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AskedError {
    #[error("--rates: {}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
    #[error("{flag}: {problem}")]
    Unknown { flag: &'static str, problem: String },
    #[error("{flag}: `{model}` is named twice")]
    Twice { flag: &'static str, model: ModelName },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(names: &[&str]) -> AskedOf {
        names.iter().map(|name| ((*name).to_owned(), Asked::default())).collect()
    }

    fn asked(rate: f64, tokens: impl Into<Option<f64>>) -> Asked {
        Asked { rate: Some(rate), tokens: tokens.into() }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_a_server() {
        let mut found = models(&["a", "b", "c", "d"]);
        let seen = Seen { rate: 1.0, tokens: Some(10.0), cost: None };
        parse(&mut found, "b = 2\nc = { rate = 3.5, tokens = 30 }\n").expect("a file");
        say(&mut found, &["c=4".parse().expect("rate")], &["b=20".parse().expect("tokens")]).expect("flags");
        see(&mut found, &BTreeMap::from(["a", "b", "c", "other"].map(|name| (name.to_owned(), seen))));
        let expected =
            [("a", asked(1.0, 10.0)), ("b", asked(2.0, 20.0)), ("c", asked(4.0, 30.0)), ("d", Asked::default())];
        assert_eq!(found, AskedOf::from(expected.map(|(name, asked)| (name.to_owned(), asked))));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_by_model() {
        for (text, key, problem) in [
            ("minlm = 3", "", "no model is called `minlm`; did you mean `minilm`?"),
            ("minilm = -3", "minilm", "`-3` must be a number from 0 to 1000000000 (rows a second)"),
            ("minilm = \"3\"", "minilm", "`\"3\"` must be a number from 0 to 1000000000 (rows a second)"),
            ("[minilm]\nrats = 3", "minilm", "unknown key `rats`; did you mean `rate`?"),
            (
                "[minilm]\ntokens = true",
                "minilm.tokens",
                "`true` must be a number from 0 to 1000000000 (tokens of the mean row)",
            ),
        ] {
            let found = parse(&mut models(&["minilm", "other"]), text).expect_err(text);
            assert_eq!(found, (key.to_owned(), problem.to_owned()));
        }
        assert!(parse(&mut models(&["m"]), "m = = 3").is_err());
        let error = read(&mut models(&["m"]), Path::new("/nowhere/rates.toml")).expect_err("no file").to_string();
        assert!(error.starts_with("--rates: /nowhere/rates.toml: "), "{error}");
    }

    #[test]
    fn what_is_wrong_with_flags_names_the_flag_and_the_model() {
        let rate = |text: &str| text.parse::<Named<Rate>>().expect("rate");
        let error = say(&mut models(&["minilm"]), &[rate("minlm=3")], &[]).expect_err("unknown").to_string();
        assert_eq!(error, "--rate: no model is called `minlm`; did you mean `minilm`?");
        let error = say(&mut models(&["m"]), &[rate("m=3"), rate("m=4")], &[]).expect_err("twice").to_string();
        assert_eq!(error, "--rate: `m` is named twice");
        let error = say(&mut models(&["m"]), &[], &["n=3".parse().expect("tokens")]).expect_err("unknown").to_string();
        assert!(error.starts_with("--tokens: "), "{error}");
    }
}
