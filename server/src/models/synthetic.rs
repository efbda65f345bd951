//! Options of the `synthetic` model, which does nothing but take time by a stated cost curve.
//!
//! Written `synthetic:base=2ms+per_row=100us+faults`: options are joined by `+`, because a comma ends the source on the
//! command line. Every option has a default, so `synthetic` alone is a model too.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The cost curve: t = max(floor, base + rows·n + tokens·T + tokens_squared·ΣL²) · noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Synthetic {
    /// No batch takes less.
    pub floor: Duration,
    /// What every batch takes.
    pub base: Duration,
    /// More for each row.
    pub per_row: Duration,
    /// More for each token.
    pub per_token: Duration,
    /// More for each squared token of a row, in nanoseconds.
    pub nanos_per_token_squared: f64,
    /// Standard deviation of the log of the noise factor; 0 for none.
    pub noise: f64,
    /// Seed of the noise.
    pub seed: u64,
    /// Obey `!fail`, `!break`, `!oom`, `!hang`, `!exit`, `!abort` in inputs.
    pub faults: bool,
    /// Report out of memory for batches of more rows; 0 for never.
    pub memory_rows: u32,
}

impl Synthetic {
    /// Longest duration an option may have.
    pub const DURATION_MAX: Duration = Duration::from_secs(60);
    /// Largest `noise`: at this value one batch in forty takes more than fifty times as long as stated.
    pub const NOISE_MAX: f64 = 2.0;
    /// Largest `nanos_per_token_squared`: a row of 1,000 tokens takes 1,000 s.
    pub const NANOS_PER_TOKEN_SQUARED_MAX: f64 = 1e6;
    /// The options' names, as written.
    pub const KEYS: [&str; 9] =
        ["floor", "base", "per_row", "per_token", "nanos_per_token_squared", "noise", "seed", "faults", "memory_rows"];

    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), SyntheticError> {
        if key == "faults" {
            self.faults = match value {
                None | Some("true") => true,
                Some("false") => false,
                Some(found) => return Err(bad("faults", found, "true or false")),
            };
            return Ok(());
        }
        let Some(known) = Self::KEYS.into_iter().find(|known| *known == key) else {
            return Err(SyntheticError::UnknownOption { found: key.to_owned(), near: super::nearest(key, Self::KEYS) });
        };
        let value = value.ok_or(SyntheticError::NoValue { option: known })?;
        match known {
            "floor" => self.floor = duration(known, value)?,
            "base" => self.base = duration(known, value)?,
            "per_row" => self.per_row = duration(known, value)?,
            "per_token" => self.per_token = duration(known, value)?,
            "nanos_per_token_squared" => {
                self.nanos_per_token_squared = number(known, value, Self::NANOS_PER_TOKEN_SQUARED_MAX)?;
            }
            "noise" => self.noise = number(known, value, Self::NOISE_MAX)?,
            "seed" => self.seed = value.parse().map_err(|_| bad(known, value, "a whole number"))?,
            _ => self.memory_rows = value.parse().map_err(|_| bad(known, value, "a whole number"))?,
        }
        Ok(())
    }
}

/// A small encoder on a CPU, more or less: 2 ms a batch, 100 µs a row, 1 µs a token, no noise.
impl Default for Synthetic {
    fn default() -> Self {
        Self {
            floor: Duration::ZERO,
            base: Duration::from_millis(2),
            per_row: Duration::from_micros(100),
            per_token: Duration::from_micros(1),
            nanos_per_token_squared: 0.0,
            noise: 0.0,
            seed: 0,
            faults: false,
            memory_rows: 0,
        }
    }
}

/// Reads what follows `synthetic:`.
impl FromStr for Synthetic {
    type Err = SyntheticError;

    fn from_str(text: &str) -> Result<Self, SyntheticError> {
        let mut options = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for option in text.split('+') {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key.trim(), Some(value.trim())),
                None => (option.trim(), None),
            };
            if key.is_empty() {
                return Err(SyntheticError::EmptyOption);
            }
            if seen.contains(&key) {
                return Err(SyntheticError::Twice { option: key.to_owned() });
            }
            options.set(key, value)?;
            seen.push(key);
        }
        Ok(options)
    }
}

/// Writes what follows `synthetic:`, every option that has a value; reading it back gives the same options.
impl fmt::Display for Synthetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |d: Duration| humantime::format_duration(d).to_string().replace(' ', "");
        write!(f, "floor={}+base={}", span(self.floor), span(self.base))?;
        write!(f, "+per_row={}+per_token={}", span(self.per_row), span(self.per_token))?;
        write!(f, "+nanos_per_token_squared={}", self.nanos_per_token_squared)?;
        write!(f, "+noise={}+seed={}", self.noise, self.seed)?;
        write!(f, "+faults={}+memory_rows={}", self.faults, self.memory_rows)
    }
}

fn duration(option: &'static str, text: &str) -> Result<Duration, SyntheticError> {
    // A bare zero needs no unit.
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= Synthetic::DURATION_MAX => Ok(duration),
        _ => Err(bad(option, text, "a duration such as 2ms or 100us, one minute at most")),
    }
}

fn number(option: &'static str, text: &str, max: f64) -> Result<f64, SyntheticError> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=max).contains(&number) => Ok(number),
        _ => {
            Err(SyntheticError::Value { option, found: text.to_owned(), expected: format!("a number from 0 to {max}") })
        }
    }
}

fn bad(option: &'static str, found: &str, expected: &str) -> SyntheticError {
    SyntheticError::Value { option, found: found.to_owned(), expected: expected.to_owned() }
}

/// Why options of `synthetic` cannot be read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SyntheticError {
    #[error("`synthetic` has an empty option; write for example synthetic:base=2ms+per_row=100us")]
    EmptyOption,
    #[error("`synthetic` has no option `{found}`; did you mean `{near}`?")]
    UnknownOption { found: String, near: String },
    #[error("option `{option}` of `synthetic` needs a value")]
    NoValue { option: &'static str },
    #[error("option `{option}` of `synthetic` is given twice")]
    Twice { option: String },
    #[error("option `{option}` of `synthetic` is `{found}`; expected {expected}")]
    Value { option: &'static str, found: String, expected: String },
}

#[cfg(test)]
mod tests;
