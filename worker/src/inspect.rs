//! What a model's folder holds and what is wrong with it, for people. Settings are read as they are to run the model, and
//! every number of its weights once; nothing is kept.

use std::path::Path;

use crate::card::Task;
use crate::model::weights::{Bound, Checkpoint};
use crate::model::{Model, ReadError, Scores};
use crate::plan::{Op, Pooling, WeightId};

/// Problems with tensors that are told: with one wrong size in the settings every tensor has one.
const TENSORS_MAX: usize = 5;
/// Labels that are named.
const LABELS_MAX: usize = 8;

/// What was found in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// What the model is, as far as it could be read: one line each.
    pub facts: Vec<String>,
    /// What is wrong, one line each that begins with the file's path; empty for a model that can run.
    pub problems: Vec<String>,
    /// Token ids are below it; none where the settings could not be read.
    pub vocabulary: Option<usize>,
}

/// Reads a folder as it would be to run its model, and says everything that is wrong with it.
pub fn inspect(folder: &Path) -> Inspection {
    let mut found = Inspection::default();
    let model = match Model::read(folder) {
        Ok(model) => model,
        Err(error) => {
            found.problems.push(error.to_string());
            return found;
        }
    };
    found.vocabulary = Some(model.vocabulary);
    found.facts = vec![network(&model), task(&model), inputs(&model)];
    match weights(&model) {
        Ok(fact) => found.facts.push(fact),
        Err(problems) => {
            found.problems.extend(problems.iter().take(TENSORS_MAX).map(ReadError::to_string));
            if let more @ 1.. = problems.len().saturating_sub(TENSORS_MAX) {
                found.problems.push(format!("{}: as much is wrong with {more} more tensors", model.weights.display()));
            }
        }
    }
    found
}

/// Architecture and sizes.
pub(crate) fn network(model: &Model) -> String {
    let layers: Vec<usize> = model.plan.ops.iter().filter_map(heads_of).collect();
    let dims = model.plan[model.plan.ops[0].output()].width;
    let heads = layers.first().copied().unwrap_or_default();
    let plural = if layers.len() == 1 { "" } else { "s" };
    format!("{}, {} layer{plural}, {dims} dimensions, {heads} heads", model.architecture, layers.len())
}

fn heads_of(op: &Op) -> Option<usize> {
    match op {
        Op::Attend { heads, .. } => Some(heads.count),
        _ => None,
    }
}

/// What it is for, and how its output becomes an answer.
pub(crate) fn task(model: &Model) -> String {
    let name = model.task.name();
    match model.task {
        Task::Embed => {
            let pooling = model.plan.ops.iter().find_map(pooling_of).unwrap_or_default();
            let normalised = if model.normalizes { "normalised" } else { "not normalised" };
            format!("{name}: {pooling} pooling, {normalised}")
        }
        Task::Classify => {
            let named = model.labels.iter().take(LABELS_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = if model.labels.len() > LABELS_MAX { ", …" } else { "" };
            format!("{name}: {} labels ({named}{more}), {}", model.labels.len(), scores(model.scores))
        }
        Task::Rerank => format!("{name}: one score for a pair of texts, {}", scores(model.scores)),
        Task::FillMask => {
            let (spelling, id) = model.mask_token.clone().unwrap_or_default();
            format!("{name}: the mask is {spelling}, id {id}")
        }
        Task::Tensor => name.to_owned(),
    }
}

fn pooling_of(op: &Op) -> Option<&'static str> {
    match op {
        Op::Pool { pooling, .. } => Some(match pooling {
            Pooling::Mean => "mean",
            Pooling::Cls => "CLS",
            Pooling::Max => "max",
            Pooling::Last => "last-token",
        }),
        _ => None,
    }
}

fn scores(scores: Scores) -> &'static str {
    match scores {
        Scores::Softmax => "softmax over all",
        Scores::Sigmoid => "sigmoid of each",
        Scores::Identity => "logits as they are",
    }
}

/// What it takes.
pub(crate) fn inputs(model: &Model) -> String {
    let types = if model.types > 0 { format!(", {} token types", model.types) } else { String::new() };
    format!("{} tokens at most, ids below {}{types}", model.tokens_max, model.vocabulary)
}

/// Finds and reads every weight.
fn weights(model: &Model) -> Result<String, Vec<ReadError>> {
    let checkpoint = Checkpoint::open(&model.weights).map_err(|error| vec![error])?;
    let bound = checkpoint.find(&model.plan, &model.names)?;
    let problems: Vec<ReadError> =
        (0..model.plan.weights.len()).filter_map(|index| check(&bound, WeightId(index)).err()).collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let ((tensors, types), parameters) = (bound.tensors(), model.plan.parameters());
    let parameters = match parameters {
        1_000_000.. => format!("{:.1} million", parameters as f64 / 1e6),
        few => few.to_string(),
    };
    Ok(format!("{parameters} parameters in {tensors} tensors of {}, all finite", types.join(" and ")))
}

/// Reads a weight's numbers, whose pages are not needed again.
fn check(bound: &Bound<'_>, id: WeightId) -> Result<(), ReadError> {
    let weight = bound.weight(id);
    let checked = weight.check();
    weight.done();
    checked
}

#[cfg(test)]
mod tests;
