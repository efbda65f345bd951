//! What stands on an encoder: scores for labels, or for the tokens of a vocabulary; and the settings all heads share.

use serde_json::{Map, Value};

use super::architecture::Encoded;
use super::config::Config;
use super::{ReadError, Scores};
use crate::plan::{Activation, BufferId, Builder, Pooling};

/// Labels at most: more than any classifier has, fewer than a file could ask memory for.
const LABELS_MAX: usize = 1 << 16;
/// What transformers assumes where a config says nothing.
const LABELS_DEFAULT: usize = 2;

/// Scores labels by a sequence's first token: a dense layer with an activation, then one without.
#[derive(Debug)]
pub(super) struct Labeller {
    pub(super) dense: &'static str,
    pub(super) activation: Activation,
    pub(super) scores: &'static str,
}

impl Labeller {
    /// [N, labels]
    pub(super) fn write(&self, encoded: &Encoded, labels: usize, plan: &mut Builder) -> BufferId {
        let first = plan.pool(encoded.states, Pooling::Cls);
        let dense = plan.dense(self.dense, (encoded.hidden, encoded.hidden), self.activation);
        let dense = plan.gemm("head", first, dense);
        let scores = plan.dense(self.scores, (labels, encoded.hidden), Activation::Identity);
        plan.gemm("logits", dense, scores)
    }
}

/// Scores all tokens for each mask: a dense layer with an activation, a norm, and a product with the vocabulary.
#[derive(Debug)]
pub(super) struct MaskFiller {
    pub(super) dense: &'static str,
    pub(super) activation: Activation,
    pub(super) norm: &'static str,
    pub(super) decoder: &'static str,
    /// Tensor of the decoder's bias.
    pub(super) bias: String,
    /// Whether the decoder's weight is the table of words.
    pub(super) is_tied: bool,
}

impl MaskFiller {
    /// [M, V]
    pub(super) fn write(&self, encoded: &Encoded, plan: &mut Builder) -> BufferId {
        let (hidden, vocabulary) = (encoded.hidden, encoded.vocabulary);
        let picked = plan.pick(encoded.states);
        let dense = plan.dense(self.dense, (hidden, hidden), self.activation);
        let dense = plan.gemm("head", picked, dense);
        let norm = plan.norm(self.norm, hidden, encoded.epsilon);
        let normed = plan.add_norm("head norm", dense, None, norm);
        let weight = if self.is_tied {
            "embeddings.word_embeddings.weight".to_owned()
        } else {
            format!("{}.weight", self.decoder)
        };
        let decoder = crate::plan::Dense {
            weight: plan.weight(&[weight], &[vocabulary, hidden], 0),
            bias: Some(plan.weight(std::slice::from_ref(&self.bias), &[vocabulary], 0)),
            activation: Activation::Identity,
        };
        plan.gemm("logits", normed, decoder)
    }
}

/// Whether the weights of the last layer are those of the first.
pub(super) fn is_tied(config: &Config) -> Result<bool, ReadError> {
    config.flag_or("tie_word_embeddings", true)
}

/// The bias of a decoder within `head`, which has two names: what is tied with the weights is the head's own.
pub(super) fn bias_name(config: &Config, head: &str) -> Result<String, ReadError> {
    Ok(if is_tied(config)? { format!("{head}.bias") } else { format!("{head}.decoder.bias") })
}

/// Names of the labels, in the order of their scores.
pub(super) fn labels(config: &Config) -> Result<Vec<String>, ReadError> {
    let default = |count: usize| (0..count).map(|index| format!("LABEL_{index}")).collect();
    let Some(value) = config.value("id2label") else {
        let count = config.index_or("num_labels", LABELS_DEFAULT, LABELS_MAX)?;
        return if count == 0 { Err(config.wrong("num_labels", "at least 1")) } else { Ok(default(count)) };
    };
    let named = value.as_object().and_then(in_order).filter(|labels| (1..LABELS_MAX).contains(&labels.len()));
    named.ok_or_else(|| config.wrong("id2label", "a name for each number from 0 up"))
}

fn in_order(by_id: &Map<String, Value>) -> Option<Vec<String>> {
    let named = by_id.iter().map(|(id, label)| Some((id.parse::<usize>().ok()?, label.as_str()?.to_owned())));
    let mut named: Vec<(usize, String)> = named.collect::<Option<_>>()?;
    named.sort_unstable();
    named.iter().map(|(id, _)| *id).eq(0..named.len()).then(|| named.into_iter().map(|(_, label)| label).collect())
}

/// How logits of several labels become scores.
pub(super) fn label_scores(config: &Config) -> Result<Scores, ReadError> {
    match config.text("problem_type") {
        None if config.value("problem_type").is_none() => Ok(Scores::Softmax),
        Some("single_label_classification") => Ok(Scores::Softmax),
        Some("multi_label_classification") => Ok(Scores::Sigmoid),
        Some("regression") => Ok(Scores::Identity),
        _ => {
            Err(config
                .wrong("problem_type", "one of single_label_classification, multi_label_classification, regression"))
        }
    }
}

/// How the logit of a single label becomes its score: as sentence-transformers was told to when it was saved.
pub(super) fn pair_scores(config: &Config) -> Result<Scores, ReadError> {
    let saved = config.value("sentence_transformers").and_then(|saved| saved.get("activation_fn"));
    let (field, found) = match saved.filter(|value| !value.is_null()) {
        Some(found) => ("sentence_transformers", Some(found)),
        None => ("sbert_ce_default_activation_function", config.value("sbert_ce_default_activation_function")),
    };
    match found.map(|found| found.as_str().and_then(|path| path.rsplit('.').next())) {
        None | Some(Some("Sigmoid")) => Ok(Scores::Sigmoid),
        Some(Some("Identity")) => Ok(Scores::Identity),
        Some(_) => Err(config.wrong(field, "torch's Sigmoid or Identity")),
    }
}
