//! What is said of one model on the command line: `MODEL=VALUE`.

use std::str::FromStr;
use std::time::Duration;

use shoal_scheduler::BatchCost;

use crate::models::{ModelName, NameError};

/// A value for a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T> {
    pub model: ModelName,
    pub value: T,
}

/// Rows a second.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Rate(pub f64);

/// Tokens of a row in the mean.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Tokens(pub f64);

/// What a batch, a row and a token take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatedCost(pub BatchCost);

/// Nothing is asked for more often, and no row is longer.
const MAX: f64 = 1e9;

impl<T: FromStr<Err = ValueError>> FromStr for Named<T> {
    type Err = NamedError;

    fn from_str(text: &str) -> Result<Self, NamedError> {
        let (model, value) = text.split_once('=').ok_or_else(|| NamedError::Form { found: text.to_owned() })?;
        Ok(Self { model: model.trim().parse()?, value: value.trim().parse()? })
    }
}

impl FromStr for Rate {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        number(text, "a number from 0 to 1000000000 (rows a second)").map(Self)
    }
}

impl FromStr for Tokens {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        number(text, "a number from 0 to 1000000000 (tokens of the mean row)").map(Self)
    }
}

impl FromStr for StatedCost {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong =
            || ValueError { found: text.to_owned(), expected: "what a batch, a row and a token take: 3ms,200us,20us" };
        let nanos = |text: &str| match (text, humantime::parse_duration(text)) {
            // A bare zero needs no unit.
            ("0", _) => Ok(0),
            (_, Ok(time)) if time <= TIME_MAX => u64::try_from(time.as_nanos()).map_err(|_| wrong()),
            _ => Err(wrong()),
        };
        let parts: Vec<u64> = text.split(',').map(|part| nanos(part.trim())).collect::<Result<_, _>>()?;
        let [base_ns, row_ns, token_ns] = parts[..] else { return Err(wrong()) };
        Ok(Self(BatchCost { base_ns, row_ns, token_ps: token_ns * 1_000, token_squared_fs: 0 }))
    }
}

/// Nothing that is served in time takes longer.
const TIME_MAX: Duration = Duration::from_secs(3600);

fn number(text: &str, expected: &'static str) -> Result<f64, ValueError> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=MAX).contains(&number) => Ok(number),
        _ => Err(ValueError { found: text.to_owned(), expected }),
    }
}

/// Why a text is no `MODEL=VALUE`.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NamedError {
    #[error("`{found}` names no model; write MODEL=VALUE")]
    Form { found: String },
    #[error(transparent)]
    Model(#[from] NameError),
    #[error(transparent)]
    Value(#[from] ValueError),
}

/// Why a text is not what is said of a model.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{found}` must be {expected}")]
pub struct ValueError {
    pub found: String,
    pub expected: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<T: FromStr<Err = ValueError> + std::fmt::Debug>(text: &str) -> String {
        text.parse::<Named<T>>().expect_err(text).to_string()
    }

    #[test]
    fn values_are_of_models() {
        let rate: Named<Rate> = "minilm=12.5".parse().expect("rate");
        assert_eq!((rate.model.as_str(), rate.value), ("minilm", Rate(12.5)));
        let cost: Named<StatedCost> = "m=3ms, 200us,1500ns".parse().expect("cost");
        let expected = BatchCost { base_ns: 3_000_000, row_ns: 200_000, token_ps: 1_500_000, token_squared_fs: 0 };
        assert_eq!(cost.value, StatedCost(expected));
        assert_eq!("m=0,0,0".parse::<Named<StatedCost>>().expect("nothing").value, StatedCost(BatchCost::default()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(error::<Rate>("12"), "`12` names no model; write MODEL=VALUE");
        for text in ["m=-1", "m=many", "m=NaN", "m=inf", "m="] {
            assert!(error::<Rate>(text).ends_with("` must be a number from 0 to 1000000000 (rows a second)"), "{text}");
        }
        assert_eq!(error::<Tokens>("m=1e10"), "`1e10` must be a number from 0 to 1000000000 (tokens of the mean row)");
        assert!(error::<Rate>("M=1").contains('M'));
        for text in ["m=3ms", "m=3ms,2,1us", "m=1ms,1ms,1ms,1ms", "m=2h,0,0"] {
            assert!(error::<StatedCost>(text).contains("3ms,200us,20us"), "{text}");
        }
    }
}
