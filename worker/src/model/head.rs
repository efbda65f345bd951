//! What stands on an encoder: scores for labels, or for the tokens of a vocabulary; and the settings all heads share.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::architecture::Encoded;
use super::config::{Config, SETTINGS_BYTES_MAX, settings};
use super::{ReadError, Scores};
use crate::plan::{Activation, BufferId, Builder, Pooling};

/// Labels at most: more than any classifier has, fewer than a file could ask memory for.
const LABELS_MAX: usize = 1 << 16;
/// What transformers assumes where a config says nothing.
const LABELS_DEFAULT: usize = 2;
/// Bytes of a tokenizer at most.
const TOKENIZER_BYTES_MAX: u64 = 64 << 20;

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

/// The part of `tokenizer_config.json` and `special_tokens_map.json` that matters.
#[derive(Debug, Default, Deserialize)]
struct SpecialTokens {
    mask_token: Option<Spelling>,
}

/// A token by itself or with how it is matched.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Spelling {
    Plain(String),
    Token { content: String },
}

/// The part of `tokenizer.json` that matters.
#[derive(Debug, Default, Deserialize)]
struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Debug, Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// How the tokenizer in a folder spells the mask, and its id.
pub(super) fn mask_token(folder: &Path, vocabulary: usize) -> Result<(String, u32), ReadError> {
    let unsupported = |path: &Path, what: String| ReadError::Unsupported { path: path.to_owned(), what };
    let spelt = |file: &str| -> Result<_, ReadError> {
        let tokens: SpecialTokens = settings(&folder.join(file), SETTINGS_BYTES_MAX)?.unwrap_or_default();
        Ok(tokens.mask_token)
    };
    let mask = match spelt("tokenizer_config.json")? {
        Some(mask) => Some(mask),
        None => spelt("special_tokens_map.json")?,
    };
    let mask = match mask {
        Some(Spelling::Plain(mask) | Spelling::Token { content: mask }) => mask,
        None => {
            let what = "names no mask_token, and neither does special_tokens_map.json".to_owned();
            return Err(unsupported(&folder.join("tokenizer_config.json"), what));
        }
    };
    let path = folder.join("tokenizer.json");
    let tokenizer: Option<Tokenizer> = settings(&path, TOKENIZER_BYTES_MAX)?;
    let tokenizer = tokenizer.ok_or_else(|| ReadError::io(&path)(std::io::ErrorKind::NotFound.into()))?;
    match tokenizer.added_tokens.into_iter().find(|token| token.content == mask) {
        Some(token) if (token.id as usize) < vocabulary => Ok((mask, token.id)),
        Some(token) => {
            Err(unsupported(&path, format!("the mask token `{mask}` is {}, and ids are below {vocabulary}", token.id)))
        }
        None => Err(unsupported(&path, format!("the mask token `{mask}` is not among the added_tokens"))),
    }
}
