//! RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2020): BERT whose positions begin behind the padding token's
//! id, with heads of their own.

use super::ReadError;
use super::architecture::{Architecture, Encoded, Head};
use super::bert;
use super::config::Config;
use super::head::{self, Labeller, MaskFiller};
use crate::plan::{Activation, BufferId, Builder};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "roberta",
    classes: &[
        ("RobertaModel", Head::Bare),
        ("RobertaForSequenceClassification", Head::Classify(classify)),
        ("RobertaForMaskedLM", Head::FillMask(fill_mask)),
    ],
    prefix: "roberta.",
    heads: &["pooler.", "lm_head.", "classifier.", "qa_outputs."],
    beside_fill_mask: &["pooler.", "lm_head.decoder.", "lm_head.bias"],
    aliases: &[("lm_head.bias", "lm_head.decoder.bias")],
    encode,
};

pub(super) const XLM: Architecture = Architecture {
    name: "xlm-roberta",
    classes: &[
        ("XLMRobertaModel", Head::Bare),
        ("XLMRobertaForSequenceClassification", Head::Classify(classify)),
        ("XLMRobertaForMaskedLM", Head::FillMask(fill_mask)),
    ],
    ..ARCHITECTURE
};

fn encode(config: &Config, plan: &mut Builder) -> Result<Encoded, ReadError> {
    let mut encoder = bert::read(config)?;
    let positions = encoder.embeddings.positions;
    // The first token's position is the padding's id plus one; it must leave room for a token.
    encoder.embeddings.skip = config.index_or("pad_token_id", 1, positions.saturating_sub(1))? + 1;
    if encoder.embeddings.skip >= positions {
        return Err(config.wrong("max_position_embeddings", "more than pad_token_id and 1"));
    }
    let states = encoder.write(plan);
    Ok(encoder.encoded(states, 0))
}

fn classify(_: &Config, encoded: &Encoded, labels: usize, plan: &mut Builder) -> Result<BufferId, ReadError> {
    let labeller = Labeller { dense: "classifier.dense", activation: Activation::Tanh, scores: "classifier.out_proj" };
    Ok(labeller.write(encoded, labels, plan))
}

fn fill_mask(config: &Config, encoded: &Encoded, plan: &mut Builder) -> Result<BufferId, ReadError> {
    let filler = MaskFiller {
        dense: "lm_head.dense",
        // Whatever the encoder's own is.
        activation: Activation::Gelu,
        norm: "lm_head.layer_norm",
        decoder: "lm_head.decoder",
        bias: head::bias_name(config, "lm_head")?,
        is_tied: head::is_tied(config)?,
    };
    Ok(filler.write(encoded, plan))
}
