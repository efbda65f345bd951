//! The parameters of a request: what a caller may ask besides the answer.

use std::collections::HashMap;
use std::time::Duration;

use shoal_proto::inference::InferParameter;
use shoal_proto::inference::infer_parameter::ParameterChoice;
use shoal_scheduler::Class;

use super::input::whole_number;
use super::quote::Short;
use super::signature::Inputs;
use super::{invalid, not_offered};
use crate::call::{CallError, RowOptions};
use crate::card::Task;

/// Every parameter a request may carry, for the message that refuses another.
const KNOWN: &str =
    "truncate, normalize, dimensions, raw, top_k, priority, timeout, triton_enable_empty_final_response";

const TIMEOUT: &str = "timeout";
/// A year: what may be added to any moment.
const TIMEOUT_MICROS_MAX: i64 = 365 * 24 * 3600 * 1_000_000;

/// What a caller asked besides the answer.
///
/// Triton hands parameters it does not know to the model. No model here takes any, so they are refused: a misspelt
/// `truncate` must not be taken for consent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `truncate` (bool): cut texts that are longer than the model takes. Ids are never cut, since what to keep of a
    /// tokenised text is for its tokenizer to say.
    pub truncate: bool,
    /// For every row, as the model's task has them: `normalize` (bool), `dimensions` (whole number), `raw` (bool),
    /// `top_k` (whole number).
    pub row: RowOptions,
    /// `priority` (whole number): 1 interactive, 2 standard, 3 bulk; 0 and absence leave it to other means.
    pub class: Option<Class>,
    /// `triton_enable_empty_final_response` (bool). Every call has exactly one answer, which says itself that it is the
    /// final one, so this changes nothing; clients send it always.
    pub empty_final_response: bool,
}

/// `timeout` (whole microseconds): the call's deadline is so long after its arrival, if none is sooner. 0 is none; a
/// year is the most.
///
/// # Errors
/// `InvalidArgument` naming it.
pub fn timeout(parameters: &HashMap<String, InferParameter>) -> Result<Option<Duration>, CallError> {
    let Some(value) = parameters.get(TIMEOUT) else { return Ok(None) };
    let micros: u64 = number(TIMEOUT, value, 0..=TIMEOUT_MICROS_MAX)?;
    Ok((micros > 0).then(|| Duration::from_micros(micros)))
}

impl Options {
    pub(super) fn parse(parameters: &HashMap<String, InferParameter>, inputs: Inputs<'_>) -> Result<Self, CallError> {
        let mut options = Self::default();
        // In order, so that of several mistakes always the same one is named.
        let mut names: Vec<&String> = parameters.keys().collect();
        names.sort_unstable();
        for name in names {
            options.set(name, &parameters[name], inputs)?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &InferParameter, inputs: Inputs<'_>) -> Result<(), CallError> {
        match name {
            "truncate" => {
                self.truncate = truth(name, value)?;
                if self.truncate && !matches!(inputs, Inputs::Text(_)) {
                    return Err(parameter(name, "applies to text models only"));
                }
            }
            "normalize" => {
                self.row.normalize = Some(truth(name, value)?);
                embedding_dims(name, inputs)?;
            }
            "dimensions" => {
                let dims = embedding_dims(name, inputs)?;
                self.row.dimensions = number(name, value, 0..=i64::from(dims))?;
            }
            "raw" => {
                self.row.raw = truth(name, value)?;
                if !matches!(task(inputs), Task::Classify | Task::Rerank | Task::FillMask) {
                    return Err(parameter(name, "applies to models that return scores only"));
                }
            }
            "top_k" => {
                self.row.top_k = number(name, value, 0..=i64::from(RowOptions::TOP_K_MAX))?;
                if task(inputs) != Task::FillMask {
                    return Err(parameter(name, "applies to models that fill masks only"));
                }
            }
            "priority" => {
                self.class = match number(name, value, 0..=3)? {
                    1 => Some(Class::Interactive),
                    2 => Some(Class::Standard),
                    3 => Some(Class::Bulk),
                    _ => None,
                };
            }
            // See `timeout`: what a call may wait for begins before its model is known.
            TIMEOUT => {}
            "triton_enable_empty_final_response" => self.empty_final_response = truth(name, value)?,
            "sequence_id" | "sequence_start" | "sequence_end" => return refuse_sequence(name, value),
            _ if name.starts_with("triton_") => {
                return Err(parameter_named(name, "parameters that begin with triton_ are Triton's own".to_owned()));
            }
            _ => return Err(parameter_named(name, format!("is not known; there are {KNOWN}"))),
        }
        Ok(())
    }
}

/// Sequences are not offered, but clients may say that they use none.
fn refuse_sequence(name: &str, value: &InferParameter) -> Result<(), CallError> {
    match &value.parameter_choice {
        Some(ParameterChoice::BoolParam(false) | ParameterChoice::Int64Param(0) | ParameterChoice::Uint64Param(0)) => {
            Ok(())
        }
        Some(ParameterChoice::StringParam(id)) if id.is_empty() => Ok(()),
        _ => Err(not_offered(format!("a sequence (`parameters.{name}`)"))),
    }
}

/// Length of the model's embeddings.
fn embedding_dims(name: &str, inputs: Inputs<'_>) -> Result<u32, CallError> {
    match inputs {
        Inputs::Text(card) if card.dims > 0 => Ok(card.dims),
        _ => Err(parameter(name, "applies to embedding models only")),
    }
}

fn task(inputs: Inputs<'_>) -> Task {
    match inputs {
        Inputs::Text(card) => card.task,
        Inputs::Tensors { .. } => Task::Tensor,
    }
}

fn truth(name: &str, value: &InferParameter) -> Result<bool, CallError> {
    match value.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => Ok(value),
        _ => Err(parameter(name, "must be a bool_param")),
    }
}

fn number<N: TryFrom<i64>>(
    name: &str,
    value: &InferParameter,
    range: std::ops::RangeInclusive<i64>,
) -> Result<N, CallError> {
    let number =
        whole_number(value).filter(|number| range.contains(number)).and_then(|number| N::try_from(number).ok());
    number.ok_or_else(|| {
        let problem = format!("must be an int64_param or uint64_param from {} to {}", range.start(), range.end());
        parameter_named(name, problem)
    })
}

fn parameter(name: &str, problem: &str) -> CallError {
    parameter_named(name, problem.to_owned())
}

fn parameter_named(name: &str, problem: String) -> CallError {
    invalid(format!("parameters.{}", Short(name)), problem)
}

#[cfg(test)]
mod tests;
